//! What is mounted where, inside and on the host.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

use launch::plan::{MountSource, Propagation, RootSource};
use launch::{FailureKind, LaunchError, Launcher, Step};

use crate::Case;
use crate::process::fresh;
use crate::world::{NODEV, NOEXEC, NOSUID, RO, World, bind, new};

pub(crate) const CASES: &[Case] = &[
    ("mounts::the_list_is_as_planned", the_list_is_as_planned),
    ("mounts::the_host_never_sees_them", the_host_never_sees_them),
    ("mounts::a_launcher_in_the_host_namespace_hides_them_too", host_launcher_hides_them),
    ("mounts::a_launcher_can_start_from_a_template", a_launcher_from_a_template),
    ("mounts::a_read_only_root_is_read_only", a_read_only_root),
    ("mounts::an_overlay_keeps_its_layers_clean", an_overlay_keeps_its_layers_clean),
    ("mounts::a_directory_can_be_the_root", a_directory_can_be_the_root),
    ("mounts::files_and_directories_are_bound", files_and_directories_are_bound),
    ("mounts::recursive_read_only_reaches_submounts", recursive_read_only),
    ("mounts::propagation_from_the_host_arrives", propagation_from_the_host_arrives),
    ("mounts::propagation_to_the_host_arrives", propagation_to_the_host_arrives),
    ("mounts::a_bad_source_is_named", a_bad_source_is_named),
    ("mounts::a_bad_type_or_option_is_named", a_bad_type_or_option_is_named),
    ("mounts::the_pods_shm_is_shared", the_pods_shm_is_shared),
    ("mounts::an_image_is_mounted_read_only_whatever_its_layers", image_volumes),
    ("mounts::a_directory_of_an_image_is_mounted_alone", directory_of_an_image),
    ("mounts::what_is_not_a_directory_of_the_image_is_refused", not_a_directory_of_the_image),
    ("mounts::a_tmpfs_can_start_with_the_images_files", copy_up),
    ("mounts::masked_paths_are_hidden", masked_paths_are_hidden),
    ("mounts::read_only_paths_are_read_only", read_only_paths),
    ("mounts::a_symlinked_etc_stays_inside", a_symlinked_etc_stays_inside),
    ("mounts::a_symlinked_proc_is_refused", a_symlinked_proc_is_refused),
    ("mounts::a_target_never_leads_into_proc", a_target_never_leads_into_proc),
    ("mounts::a_target_through_a_symlink_stays_inside", a_target_through_a_symlink),
    ("mounts::masks_follow_symlinks_inside_only", masks_follow_symlinks_inside_only),
];

/// Mount point, file system type, options of each line of a mount table.
fn table(text: &str) -> Vec<(String, String, String)> {
    let lines = text.lines().map(|line| {
        let (before, after) = line.split_once(" - ").unwrap();
        let before: Vec<&str> = before.split(' ').collect();
        let fstype = after.split(' ').next().unwrap();
        (before[4].to_owned(), fstype.to_owned(), before[5].to_owned())
    });
    lines.collect()
}

fn host_table(world: &World) -> String {
    world.host(|| fs::read_to_string("/proc/self/mountinfo").unwrap())
}

fn the_list_is_as_planned(world: &mut World) {
    let mounts = table(&world.run(&world.plan("cat /proc/self/mountinfo")).text());
    let expected = [
        ("/", "overlay", "rw,relatime"),
        ("/proc", "proc", "rw,nosuid,nodev,noexec,relatime"),
        ("/dev", "tmpfs", "rw,nosuid,relatime"),
        ("/dev/pts", "devpts", "rw,nosuid,noexec,relatime"),
        ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec,relatime"),
        ("/sys", "sysfs", "ro,nosuid,nodev,noexec,relatime"),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(path, fstype, options)| (path.to_string(), fstype.to_string(), options.to_string()))
        .collect();
    assert_eq!(mounts, expected);
}

fn the_host_never_sees_them(world: &mut World) {
    let before = host_table(world);
    let running = world.launch(&world.plan("sleep 60"));
    assert_eq!(host_table(world), before, "while it runs");
    sys::pidfd::kill(running.pidfd.as_fd()).unwrap();
    sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
    assert_eq!(host_table(world), before, "afterwards");
}

fn host_launcher_hides_them(world: &mut World) {
    let before = host_table(world);
    world.host(|| {
        let launcher = Launcher::in_host_namespace(&world.scratch.join("staging")).unwrap();
        let null = fs::File::open("/dev/null").unwrap();
        let null = null.as_fd();
        let io = launch::Io::Files { stdin: null, stdout: null, stderr: null };
        let running = launcher.launch(&world.plan("sleep 60"), io).unwrap();
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
        sys::pidfd::kill(running.pidfd.as_fd()).unwrap();
        sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
    });
    assert_eq!(host_table(world), before);
}

fn a_launcher_from_a_template(world: &mut World) {
    world.host(|| {
        // The thread that makes it is gone before anything is launched.
        let template = std::thread::spawn(|| launch::make_template().unwrap()).join().unwrap();
        let pause = world.plan("");
        let child = || {
            let mut launcher = Launcher::in_copy_of(template.as_fd()).unwrap();
            launcher.mount_tmpfs("/shm", 4096, None, None).unwrap();
            let pause = launcher.pause(&pause).unwrap();
            sys::pidfd::kill(pause.pidfd.as_fd()).unwrap();
            sys::pidfd::wait(pause.pidfd.as_fd()).unwrap();
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            i32::from(table.lines().count() != 4)
        };
        for _ in 0..2 {
            // SAFETY: the other thread has been joined.
            let child = unsafe {
                sys::process::clone_child(sys::process::NewNamespaces::default(), None, child)
            };
            let ended = sys::pidfd::wait(child.unwrap().pidfd.as_fd()).unwrap();
            assert_eq!(ended, sys::pidfd::Ended::Exited(0));
        }
    });
}

fn a_read_only_root(world: &mut World) {
    let mut plan = world.plan("echo x > /x; mkdir /dev/shm; echo $?");
    plan.root.readonly = true;
    let output = world.run(&plan);
    assert!(output.stderr.contains("/x: Read-only file system"), "{output:?}");
    assert_eq!(output.text(), "0\n", "mounts below stay writable");
}

fn an_overlay_keeps_its_layers_clean(world: &mut World) {
    let mut plan = world.plan("echo new > /etc/passwd; rm /bin/vi; cat /top /bottom");
    let RootSource::Overlay { lower, .. } = &mut plan.root.source else { panic!() };
    world.host(|| {
        for (dir, file) in [("one", "top"), ("two", "bottom")] {
            fs::create_dir(world.scratch.join(dir)).unwrap();
            fs::write(world.scratch.join(dir).join(file), format!("{dir}\n")).unwrap();
        }
    });
    lower.insert(0, world.path("one"));
    lower.push(world.path("two"));
    let base = lower[1].clone();
    assert_eq!(world.run(&plan).text(), "one\ntwo\n");
    world.host(|| {
        assert!(fs::read_to_string(format!("{base}/etc/passwd")).unwrap().starts_with("root"));
        assert!(fs::exists(format!("{base}/bin/vi")).unwrap());
        assert_eq!(fs::read_to_string(world.upper("etc/passwd")).unwrap(), "new\n");
    });
}

fn a_directory_can_be_the_root(world: &mut World) {
    let mut plan = world.plan("ls /data");
    let RootSource::Overlay { lower, .. } = &plan.root.source else { panic!() };
    let root = lower[0].clone();
    plan.root.source = RootSource::Directory(root);
    plan.root.readonly = true;
    // Nothing can be made in it without changing it, so the test's root has no such target.
    plan.mounts.push(bind(&world.path("upper"), "/tmp", RO));
    world.host(|| fs::write(world.upper("f"), "").unwrap());
    plan.process.args[2] = "ls /tmp; touch /x".to_owned();
    let output = world.run(&plan);
    assert_eq!(output.stdout, "f\n");
    assert!(output.stderr.contains("Read-only"), "{output:?}");
}

fn files_and_directories_are_bound(world: &mut World) {
    world.host(|| {
        fs::write(world.scratch.join("hosts"), "localhost\n").unwrap();
        symlink("hosts", world.scratch.join("link")).unwrap();
        fs::create_dir(world.scratch.join("volume")).unwrap();
    });
    let mut plan = world.plan(
        "cat /etc/hosts /new/deep/file; echo x > /data/out; echo x > /etc/hosts || echo refused",
    );
    plan.mounts.extend([
        bind(&world.path("hosts"), "/etc/hosts", RO),
        bind(&world.path("link"), "/new/deep/file", RO | NODEV),
        bind(&world.path("volume"), "/data", NOSUID),
    ]);
    assert_eq!(world.run(&plan).text(), "localhost\nlocalhost\nrefused\n");
    world.host(|| assert_eq!(fs::read_to_string(world.path("volume/out")).unwrap(), "x\n"));
}

/// A tmpfs mounted in the scratch space on the host, gone with the guard.
struct HostMount<'a>(&'a World, String);

impl<'a> HostMount<'a> {
    fn new(world: &'a World, name: &str, propagation: sys::mount::Propagation) -> Self {
        let path = world.path(name);
        world.host(|| {
            fs::create_dir_all(&path).unwrap();
            let mount = sys::mount::FsContext::open("tmpfs").unwrap().mount(0).unwrap();
            let change = sys::mount::Change {
                propagation: Some(propagation),
                ..sys::mount::Change::default()
            };
            sys::mount::change(&mount, false, change).unwrap();
            sys::mount::attach_at(mount.as_fd(), path.as_str()).unwrap();
        });
        Self(world, path)
    }
}

impl Drop for HostMount<'_> {
    fn drop(&mut self) {
        self.0.host(|| sys::mount::detach(self.1.as_str()).unwrap());
    }
}

fn recursive_read_only(world: &mut World) {
    let _outer = HostMount::new(world, "volume", sys::mount::Propagation::Private);
    let inner = HostMount::new(world, "volume/inner", sys::mount::Propagation::Private);
    let command = "touch /data/x; touch /data/inner/x; ls -A /data/inner";
    let mut plan = world.plan(command);
    plan.mounts.push(bind(&world.path("volume"), "/data", RO));
    assert_eq!(world.run(&plan).text(), "x\n", "not recursive");
    world.host(|| fs::remove_file(format!("{}/x", inner.1)).unwrap());
    fresh(world);
    let mut plan = world.plan(command);
    plan.mounts.push(bind(&world.path("volume"), "/data", RO));
    plan.mounts.last_mut().unwrap().attr_recursive = true;
    assert_eq!(world.run(&plan).text(), "", "recursive");
}

fn propagation_from_the_host_arrives(world: &mut World) {
    for (propagation, expected) in [(Propagation::Slave, "later\n"), (Propagation::Private, "")] {
        let volume = HostMount::new(world, "volume", sys::mount::Propagation::Shared);
        world.host(|| {
            fs::create_dir(format!("{}/sub", volume.1)).unwrap();
        });
        let mut plan = world.plan("sleep 60");
        plan.mounts.push(bind(&volume.1, "/data", 0));
        plan.mounts.last_mut().unwrap().propagation = propagation;
        let running = world.launch(&plan);
        let later = HostMount::new(world, "volume/sub", sys::mount::Propagation::Private);
        world.host(|| fs::write(format!("{}/later", later.1), "").unwrap());
        assert_eq!(world.exec("ls /data/sub", &running).text(), expected, "{propagation:?}");
        sys::pidfd::kill(running.pidfd.as_fd()).unwrap();
        sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
        fresh(world);
    }
}

fn propagation_to_the_host_arrives(world: &mut World) {
    let volume = HostMount::new(world, "volume", sys::mount::Propagation::Shared);
    let mut plan = world.plan("mkdir /data/sub && mount -t tmpfs none /data/sub");
    plan.process.capabilities.bounding |= 1 << 21;
    plan.process.capabilities.permitted |= 1 << 21;
    plan.process.capabilities.effective |= 1 << 21;
    plan.mounts.push(bind(&volume.1, "/data", 0));
    plan.mounts.last_mut().unwrap().propagation = Propagation::Shared;
    world.run(&plan).text();
    let sub = format!("{}/sub", volume.1);
    assert!(host_table(world).contains(&sub));
    world.host(|| sys::mount::detach(sub.as_str()).unwrap());
}

fn a_bad_source_is_named(world: &mut World) {
    let mut plan = world.plan("true");
    plan.mounts.push(bind("/no/such/volume", "/data", 0));
    let error = world.refused(&plan);
    assert_eq!((error.kind(), error.step), (FailureKind::Mount, Step::BindSource));
    assert_eq!((error.subject.as_str(), error.errno()), ("/no/such/volume", Some(libc::ENOENT)));
}

fn a_bad_type_or_option_is_named(world: &mut World) {
    let mut plan = world.plan("true");
    plan.mounts.push(new("/x", "nosuchfs", 0, &[]));
    let error = world.refused(&plan);
    assert_eq!(error.kind(), FailureKind::Mount);
    assert!(error.sentence().contains("/x (file system type nosuchfs)"), "{}", error.sentence());
    fresh(world);
    let mut plan = world.plan("true");
    plan.mounts.push(new("/x", "tmpfs", 0, &[("nosuchoption", "1")]));
    let error: LaunchError = world.refused(&plan);
    assert!(error.sentence().contains("/x (option nosuchoption)"), "{}", error.sentence());
}

fn the_pods_shm_is_shared(world: &mut World) {
    world.launcher.mount_tmpfs("/shm", 1 << 20, None, None).unwrap();
    let mut shm = bind("", "/dev/shm", NOSUID | NODEV | NOEXEC);
    shm.source = MountSource::Launcher { path: "/shm".to_owned() };
    let mut plan = world.plan("echo hello > /dev/shm/x; stat -c %a /dev/shm");
    plan.mounts.push(shm.clone());
    assert_eq!(world.run(&plan).text(), "1777\n");
    fresh(world);
    let mut plan = world.plan("cat /dev/shm/x");
    plan.mounts.push(shm);
    assert_eq!(world.run(&plan).text(), "hello\n");
    // Somewhere else than where room was left.
    world.launcher.mount_tmpfs("/pod/shm", 1 << 20, None, None).unwrap();
}

/// Layers `base` and `top` of an image, the topmost first.
fn image(world: &World, layers: &[&str]) -> Vec<String> {
    let layer = |name: &&str| {
        let path = world.path(name);
        world.host(|| {
            fs::create_dir_all(format!("{path}/data/{name}")).unwrap();
            fs::write(format!("{path}/data/by"), *name).unwrap();
            fs::write(format!("{path}/data/{name}/f"), format!("{name}\n")).unwrap();
            symlink("data", format!("{path}/link")).unwrap();
            symlink("../../../etc", format!("{path}/out")).unwrap();
        });
        path
    };
    layers.iter().map(layer).collect()
}

fn image_volume(lower: Vec<String>, sub_path: &str) -> launch::plan::MountPlan {
    let mut mount = bind("", "/volume", NOSUID);
    mount.source = MountSource::Image { lower, sub_path: sub_path.to_owned() };
    mount
}

fn image_volumes(world: &mut World) {
    let before = host_table(world);
    for (layers, want) in [
        (&[][..], ""),
        (&["base"][..], "data\nlink\nout\nbase\n"),
        (&["top", "base"][..], "data\nlink\nout\nbase\ntop\n"),
    ] {
        let lower = image(world, layers);
        let mut plan = world.plan(
            "ls -A /volume; ls /volume/data 2>/dev/null | grep -v by; \
             touch /volume/x 2>&1 | grep -c Read-only",
        );
        plan.mounts.push(image_volume(lower.clone(), ""));
        let said = world.run(&plan).stdout;
        assert_eq!(said, format!("{want}1\n"), "{layers:?}");
        assert_eq!(host_table(world), before);
        world.host(|| lower.iter().for_each(|layer| fs::remove_dir_all(layer).unwrap()));
        fresh(world);
    }
}

fn directory_of_an_image(world: &mut World) {
    for layers in [&["base"][..], &["top", "base"][..]] {
        let lower = image(world, layers);
        for sub_path in ["data", "link", "data/base/.."] {
            let mut plan = world.plan(
                "cat /volume/base/f; touch /volume/x 2>&1 | grep -c Read-only; \
                 grep -c ' /volume ' /proc/mounts",
            );
            plan.mounts.push(image_volume(lower.clone(), sub_path));
            assert_eq!(world.run(&plan).stdout, "base\n1\n1\n", "{layers:?} {sub_path}");
            fresh(world);
        }
        world.host(|| lower.iter().for_each(|layer| fs::remove_dir_all(layer).unwrap()));
    }
}

fn not_a_directory_of_the_image(world: &mut World) {
    for layers in [&[][..], &["base"][..], &["top", "base"][..]] {
        let lower = image(world, layers);
        let wrong = [
            ("none", libc::ENOENT),
            ("data/by", libc::ENOTDIR),
            ("out", libc::EXDEV),
            ("..", libc::EXDEV),
            ("/etc", libc::EXDEV),
        ];
        for (sub_path, errno) in wrong {
            let mut plan = world.plan("true");
            plan.mounts.push(image_volume(lower.clone(), sub_path));
            let error = world.refused(&plan);
            assert_eq!(error.step, Step::ImageVolume, "{sub_path}");
            let nothing_there = layers.is_empty() && !matches!(sub_path, ".." | "/etc");
            let errno = if nothing_there { libc::ENOENT } else { errno };
            assert_eq!(error.errno(), Some(errno), "{sub_path} {layers:?}");
            fresh(world);
        }
        world.host(|| lower.iter().for_each(|layer| fs::remove_dir_all(layer).unwrap()));
    }
}

fn copy_up(world: &mut World) {
    let mut mount = new("/etc", "tmpfs", RO, &[]);
    let MountSource::New { copy_up, .. } = &mut mount.source else { panic!() };
    *copy_up = true;
    let mut plan = world.plan("cat /etc/passwd | head -c 4; stat -c ' %a' /etc; touch /etc/x");
    plan.mounts.push(mount);
    let output = world.run(&plan);
    assert_eq!(output.stdout, "root 755\n");
    assert!(output.stderr.contains("Read-only"), "{output:?}");
}

fn masked_paths_are_hidden(world: &mut World) {
    let mut plan = world.plan(
        "cat /proc/kcore /proc/keys | wc -c; ls /proc/fs /sys/firmware | grep -v : | grep .; \
         touch /proc/fs/x; cat /etc/passwd",
    );
    plan.masked_paths =
        ["/proc/kcore", "/proc/keys", "/proc/fs", "/sys/firmware", "/no/such", "/etc/passwd/x"]
            .map(str::to_owned)
            .to_vec();
    let output = world.run(&plan);
    assert!(output.stdout.starts_with("0\nroot"), "{output:?}");
    assert!(output.stderr.contains("/proc/fs/x: Read-only"), "{output:?}");
}

fn read_only_paths(world: &mut World) {
    let mut plan = world.plan("echo 1 > /proc/sys/net/ipv4/ip_forward; echo x >> /etc/passwd");
    plan.readonly_paths = ["/proc/sys", "/etc/passwd", "/no/such"].map(str::to_owned).to_vec();
    let output = world.run(&plan);
    assert_eq!(output.stderr.matches("Read-only file system").count(), 2, "{output:?}");
}

/// Layers whose files are symlinks out of the root must not move mounts or files out of it.
fn a_symlinked_etc_stays_inside(world: &mut World) {
    world.host(|| {
        fs::create_dir(world.scratch.join("evil")).unwrap();
        symlink("/", world.scratch.join("evil/etc")).unwrap();
        fs::write(world.scratch.join("hosts"), "ours\n").unwrap();
    });
    let marker = format!("/knarr-marker-{}", std::process::id());
    let mut plan = world.plan(&format!("cat {marker}"));
    let RootSource::Overlay { lower, .. } = &mut plan.root.source else { panic!() };
    lower.insert(0, world.path("evil"));
    plan.mounts.push(bind(&world.path("hosts"), &format!("/etc{marker}"), RO));
    assert_eq!(world.run(&plan).text(), "ours\n");
    world.host(|| assert!(!fs::exists(&marker).unwrap()));
}

fn a_symlinked_proc_is_refused(world: &mut World) {
    world.host(|| {
        fs::create_dir(world.scratch.join("evil")).unwrap();
        symlink("/tmp", world.scratch.join("evil/proc")).unwrap();
    });
    let mut plan = world.plan("true");
    let RootSource::Overlay { lower, .. } = &mut plan.root.source else { panic!() };
    lower.insert(0, world.path("evil"));
    let error = world.refused(&plan);
    assert_eq!((error.step, error.errno()), (Step::MountTarget, Some(libc::ELOOP)));
    assert_eq!(error.subject, "/proc, which must be mounted on ordinary directory");
}

fn a_target_never_leads_into_proc(world: &mut World) {
    world.host(|| {
        fs::create_dir(world.scratch.join("volume")).unwrap();
        symlink("/proc/sys", world.upper("data")).unwrap();
    });
    let mut plan = world.plan("true");
    plan.mounts.push(bind(&world.path("volume"), "/data", 0));
    let error = world.refused(&plan);
    assert_eq!((error.step, error.errno()), (Step::MountTarget, Some(libc::EXDEV)));
}

fn a_target_through_a_symlink(world: &mut World) {
    let outside = world.path("outside");
    world.host(|| {
        fs::create_dir(&outside).unwrap();
        fs::create_dir(world.scratch.join("volume")).unwrap();
        fs::write(world.scratch.join("volume/f"), "ours\n").unwrap();
        symlink("../../../../../../../../..", world.upper("up")).unwrap();
        symlink(&outside, world.upper("abs")).unwrap();
    });
    let mut plan = world.plan(&format!("cat {outside}/f /up-f/f"));
    plan.mounts.push(bind(&world.path("volume"), "/abs", 0));
    plan.mounts.push(bind(&world.path("volume"), "/up/up-f", 0));
    assert_eq!(world.run(&plan).text(), "ours\nours\n");
    world.host(|| {
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(!fs::exists("/up-f").unwrap());
    });
}

fn masks_follow_symlinks_inside_only(world: &mut World) {
    world.host(|| symlink("/etc/passwd", world.upper("secret")).unwrap());
    let mut plan = world.plan("cat /secret /etc/passwd | wc -c");
    plan.masked_paths = vec!["/secret".to_owned()];
    assert_eq!(world.run(&plan).text(), "0\n");
    world.host(|| assert_ne!(fs::read("/etc/passwd").unwrap().len(), 0));
}
