//! The places. Each lies before the step its name says, so that dying there is dying after
//! everything above it; the last of an operation lies before its answer.

macro_rules! points {
    ($($group:literal { $($(#[$doc:meta])* $point:ident $name:literal $kind:ident,)* })*) => {
        /// A place.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $($($(#[$doc])* $point,)*)*
        }

        impl Point {
            /// All of them, in the order in which an operation comes by.
            pub const ALL: &[Self] = &[$($(Self::$point,)*)*];

            /// What tests call it.
            pub const fn name(self) -> &'static str {
                match self {
                    $($(Self::$point => concat!($group, ".", $name),)*)*
                }
            }

            /// Whether the step can fail; otherwise the daemon can only die before it.
            pub const fn can_fail(self) -> bool {
                match self {
                    $($(Self::$point => points!(@ $kind),)*)*
                }
            }

            /// Whether the step writes to a file system, which may be full.
            pub const fn writes(self) -> bool {
                match self {
                    $($(Self::$point => points!(= $kind),)*)*
                }
            }

            /// Whether it lies in the shim; the others lie in the daemon.
            pub fn is_the_shims(self) -> bool {
                self.name().starts_with("shim.")
            }

            /// The place of that name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|point| point.name() == name)
            }
        }
    };
    (@ fallible) => { true };
    (@ writing) => { true };
    (@ certain) => { false };
    (= fallible) => { false };
    (= writing) => { true };
    (= certain) => { false };
}

points! {
    "pod.run" {
        /// The pod's directories.
        PodDirectories "directories" writing,
        /// The files its containers see in `/etc`.
        PodFiles "files" writing,
        /// The record that says what will be made.
        PodIntent "intent" writing,
        /// The shim's socket.
        PodSocket "socket" writing,
        /// The shim's process.
        PodSpawn "spawn" fallible,
        /// The scope that systemd makes for it.
        PodScope "scope" fallible,
        /// The connection to the shim.
        PodConnect "connect" fallible,
        /// Namespaces, made by the shim.
        PodSetup "setup" fallible,
        /// CNI ADD.
        PodAttach "attach" fallible,
        /// The record that says that it is ready.
        PodReady "ready" writing,
        /// The answer.
        PodAnswer "answer" certain,
    }
    "cni.add" {
        /// The next plugin of a list.
        CniAddPlugin "plugin" fallible,
        /// A reservation of addresses.
        CniAddReserve "reserve" writing,
        /// The pod's link, with its address reserved.
        CniAddLink "link" fallible,
        /// The pod's own end of it.
        CniAddConfigure "configure" fallible,
        /// The limit of what comes from the pod, with the one of what goes to it set.
        CniAddShape "shape" fallible,
        /// The firewall's rules, with their chains made.
        CniAddFilter "filter" fallible,
        /// Rules for host ports.
        CniAddPorts "ports" fallible,
        /// The record of the attachment.
        CniAddCache "cache" writing,
    }
    "container.create" {
        /// Its directory.
        ContainerDirectory "directory" writing,
        /// Its writable layer.
        ContainerLayer "layer" writing,
        /// Its specification.
        ContainerSpec "spec" writing,
        /// Its record.
        ContainerRecord "record" writing,
        /// The answer.
        ContainerAnswer "answer" certain,
    }
    "container.start" {
        /// The plan.
        StartPlan "plan" fallible,
        /// The launch, by the shim.
        StartLaunch "launch" fallible,
        /// The record that says that it runs.
        StartRecord "record" writing,
        /// The answer.
        StartAnswer "answer" certain,
    }
    "container.stop" {
        /// The signal, sent by the shim.
        StopSignal "signal" fallible,
        /// The record of its end.
        StopRecord "record" writing,
        /// The answer.
        StopAnswer "answer" certain,
    }
    "container.remove" {
        /// The shim forgets it.
        RemoveForget "forget" fallible,
        /// Its writable layer goes.
        RemoveLayer "layer" fallible,
        /// Its directory goes, and with it the record.
        RemoveDirectory "directory" fallible,
        /// The answer.
        RemoveAnswer "answer" certain,
    }
    "pod.stop" {
        /// The record that says that it is to end.
        PodStopRecord "record" writing,
        /// SIGKILL for its containers.
        PodStopKill "kill" fallible,
        /// CNI DEL.
        PodStopDetach "detach" fallible,
        /// The record that no DEL is due any more.
        PodStopDetached "detached" writing,
        /// The shim's end.
        PodStopShim "shim" fallible,
        /// Control groups go.
        PodStopCgroups "cgroups" fallible,
        /// The pin of the network namespace goes.
        PodStopUnpin "unpin" fallible,
        /// The answer.
        PodStopAnswer "answer" certain,
    }
    "cni.del" {
        /// The next plugin of a list, from the last.
        CniDelPlugin "plugin" fallible,
        /// The firewall's rules go.
        CniDelFilter "filter" fallible,
        /// The rules of host ports go.
        CniDelPorts "ports" fallible,
        /// The reservation goes.
        CniDelRelease "release" fallible,
        /// The record of the attachment goes.
        CniDelCache "cache" fallible,
    }
    "pod.remove" {
        /// The directory of volatile state goes.
        PodRemoveState "state" fallible,
        /// The record's directory goes.
        PodRemoveDirectory "directory" fallible,
        /// The answer.
        PodRemoveAnswer "answer" certain,
    }
    "pod.update" {
        /// The record of a pod's new totals.
        PodUpdateRecord "record" writing,
    }
    "container.update" {
        /// The record of a container's new limits, with its specification rewritten.
        UpdateRecord "record" writing,
    }
    "store" {
        /// A new record takes the place of the old one.
        RecordReplace "replace" writing,
    }
    "image.pull" {
        /// A place to unpack a layer into.
        LayerBegin "begin" writing,
        /// An unpacked layer reaches the disk.
        LayerSync "sync" writing,
        /// Its seal.
        LayerSeal "seal" writing,
        /// It gets its name.
        LayerName "name" writing,
        /// What layers leave to those below them.
        LayerFixup "fixup" writing,
        /// The image's documents.
        ImageDocuments "documents" writing,
        /// The image's record.
        ImageRecord "record" writing,
        /// The answer.
        ImageAnswer "answer" certain,
    }
    "image.remove" {
        /// The record goes.
        ImageUnrecord "record" fallible,
        /// The documents go.
        ImageUndocument "documents" fallible,
        /// An unused layer is taken out of the store.
        LayerTake "take" fallible,
        /// Its files go.
        LayerDelete "delete" fallible,
        /// The answer.
        ImageRemoveAnswer "answer" certain,
    }
    "recover" {
        /// The stores of layers and images.
        RecoverStores "stores" fallible,
        /// A pod's record.
        RecoverRead "read" fallible,
        /// The connection to a pod's shim.
        RecoverReconnect "reconnect" fallible,
        /// A pod's state and its shim's are compared.
        RecoverReconcile "reconcile" certain,
        /// A half-made pod goes.
        RecoverUndo "undo" certain,
        /// Volatile state without a record goes.
        RecoverSweep "sweep" fallible,
        /// Attachments of pods that are gone go.
        RecoverNetworks "networks" certain,
        /// The socket answers.
        RecoverServe "serve" certain,
    }
    "shim.begin" {
        /// The directory of exit records.
        ShimExits "exits" writing,
        /// The daemon is listened to.
        ShimServe "serve" certain,
    }
    "shim.setup" {
        /// The pod's namespaces.
        ShimNamespaces "namespaces" fallible,
        /// The loopback link.
        ShimLoopback "loopback" fallible,
        /// The pin of the network namespace.
        ShimPin "pin" fallible,
        /// The pod's `/dev/shm`.
        ShimShm "shm" fallible,
        /// The process that holds the shared PID namespace.
        ShimPause "pause" fallible,
        /// The answer.
        ShimSetupAnswer "answer" certain,
    }
    "shim.start" {
        /// Room for the record of its exit.
        ShimRoom "room" writing,
        /// The container's log.
        ShimLog "log" writing,
        /// The launch.
        ShimLaunch "launch" fallible,
        /// The program runs, and nobody knows yet.
        ShimKeep "keep" certain,
        /// The answer.
        ShimStartAnswer "answer" certain,
    }
    "shim.exec" {
        /// The process.
        ShimEnter "enter" fallible,
        /// The answer.
        ShimExecAnswer "answer" certain,
    }
    "shim.kill" {
        /// The signal.
        ShimSignal "signal" fallible,
    }
    "shim.exit" {
        /// The first process is reaped; others may live.
        ShimReaped "reaped" certain,
        /// The exit record.
        ShimExitRecord "record" writing,
        /// The event.
        ShimExitTell "tell" certain,
    }
    "shim.forget" {
        /// Control groups go.
        ShimForgetCgroups "cgroups" fallible,
        /// The exit record goes.
        ShimForgetRecord "record" fallible,
    }
    "shim.leave" {
        /// A container's stop signal, after the shim's own SIGTERM.
        ShimLeaveSignal "signal" fallible,
        /// All have ended, or have had their time.
        ShimLeaveRelease "release" certain,
    }
    "shim.shutdown" {
        /// SIGKILL for what still runs.
        ShimShutdownKill "kill" certain,
        /// Control groups and the pin go.
        ShimShutdownRelease "release" fallible,
        /// The answer, and the end.
        ShimShutdownEnd "end" certain,
    }
}
