//! Programs of the host at points of a container's life.

use std::fs;

use launch::Step;
use launch::plan::{HookPlan, HooksPlan, LaunchPlan};

use crate::Case;
use crate::process::fresh;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("hooks::before_the_program_runs_they_are_told_of_it", create_runtime),
    ("hooks::in_the_container_they_see_its_root_and_the_hosts_files", create_container),
    ("hooks::one_that_fails_refuses_the_launch_in_its_words", a_failure_refuses),
    ("hooks::one_that_takes_too_long_is_killed", too_long),
    ("hooks::a_failure_after_the_start_ends_the_process", poststart),
    ("hooks::the_end_is_told", poststop),
];

fn shell(script: &str) -> HookPlan {
    HookPlan {
        path: "/bin/sh".to_owned(),
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin:/usr/bin".to_owned(), "KIND=hook".to_owned()],
        timeout_s: None,
    }
}

fn hooked(world: &World, command: &str, change: impl FnOnce(&mut HooksPlan)) -> LaunchPlan {
    let mut hooks = HooksPlan {
        state: "{\"ociVersion\":\"1.0.2\",\"id\":\"c1\"".to_owned(),
        root: world.path("rootfs"),
        ..HooksPlan::default()
    };
    world.host(|| fs::create_dir_all(&hooks.root).unwrap());
    change(&mut hooks);
    LaunchPlan { hooks: Some(hooks), ..world.plan(command) }
}

fn read(world: &World, name: &str) -> String {
    world.host(|| fs::read_to_string(world.scratch.join(name)).unwrap())
}

fn create_runtime(world: &mut World) {
    let (state, kind) = (world.path("state"), world.path("kind"));
    let note = shell(&format!("cat > {state}; readlink /proc/self/ns/mnt; echo $KIND > {kind}"));
    let second = shell(&format!("test -s {state} && readlink /proc/$PPID/exe >> {kind}"));
    let plan = hooked(world, "true", |hooks| hooks.create_runtime = vec![note, second]);
    let running = world.launch(&plan);
    let pid = running.pid.as_raw_nonzero();
    let want =
        format!("{{\"ociVersion\":\"1.0.2\",\"id\":\"c1\",\"status\":\"creating\",\"pid\":{pid}}}");
    assert_eq!(read(world, "state"), want);
    assert!(read(world, "kind").starts_with("hook\n"));
}

fn create_container(world: &mut World) {
    let (host_file, root) = (world.path("host-file"), world.path("rootfs"));
    world.host(|| fs::write(&host_file, "from the host\n").unwrap());
    let before = world.host(|| fs::read_to_string("/proc/self/mountinfo").unwrap());
    let script = format!(
        "cp {host_file} {root}/etc/copied && test -e {root}/bin/busybox && \
         grep -c ' {root}' /proc/self/mountinfo && hostname inside"
    );
    let plan = hooked(world, "cat /etc/copied; hostname; ls /", |hooks| {
        hooks.create_container = vec![shell(&script)];
    });
    let output = world.run(&plan).text();
    assert!(output.starts_with("from the host\ninside\n"), "{output}");
    assert!(!output.contains("rootfs"), "{output}");
    world.host(|| {
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    });
}

fn a_failure_refuses(world: &mut World) {
    let bad = || vec![shell("echo no such card >&2; exit 3")];
    for (name, plan) in [
        ("runtime", hooked(world, "true", |hooks| hooks.create_runtime = bad())),
        ("container", hooked(world, "true", |hooks| hooks.create_container = bad())),
    ] {
        let error = world.refused(&plan);
        assert_eq!(error.step, Step::Hook, "{name}");
        let text = error.sentence();
        assert!(text.contains("/bin/sh: exit status 3: no such card"), "{name}: {text}");
        fresh(world);
    }
    let missing = HookPlan { path: "/no/such/hook".to_owned(), ..shell("") };
    let plan = hooked(world, "true", |hooks| hooks.create_runtime = vec![missing]);
    let text = world.refused(&plan).sentence();
    assert!(text.contains("/no/such/hook") && text.contains("No such file"), "{text}");
}

fn too_long(world: &mut World) {
    let pid = world.path("pid");
    let script = format!("sleep 1000 & echo $! >{pid}; wait");
    let slow = HookPlan { timeout_s: Some(1), ..shell(&script) };
    let plan = hooked(world, "true", |hooks| hooks.create_runtime = vec![slow]);
    let text = world.refused(&plan).sentence();
    assert!(text.contains("it was killed after 1 s"), "{text}");
    // With all it started: SIGKILL was sent, so it goes.
    let started = format!("/proc/{}/cmdline", read(world, "pid").trim());
    while world.host(|| fs::read(&started).is_ok_and(|words| words.starts_with(b"sleep"))) {
        std::thread::yield_now();
    }
}

fn poststart(world: &mut World) {
    let state = world.path("state");
    let good = shell(&format!("cat > {state}"));
    let plan = hooked(world, "sleep 60", |hooks| hooks.poststart = vec![good.clone()]);
    world.launch(&plan);
    assert!(read(world, "state").contains("\"status\":\"running\""));
    world.host(|| fs::remove_file(&state).unwrap());
    fresh(world);
    let bad = shell("exit 1");
    let plan = hooked(world, "sleep 60", |hooks| hooks.poststart = vec![bad, good]);
    let error = world.refused(&plan);
    assert_eq!(error.step, Step::Hook);
    assert!(error.sentence().contains("poststart hook #0: /bin/sh: exit status 1"), "{error}");
    assert!(!world.host(|| fs::exists(&state).unwrap()), "the next one has run");
}

fn poststop(world: &mut World) {
    let state = world.path("state");
    let script = shell(&format!("cat > {state}"));
    let plan = hooked(world, "true", |hooks| hooks.poststop = vec![script]);
    world.run(&plan).text();
    assert!(!world.host(|| fs::exists(&state).unwrap()));
    let hooks = plan.hooks.unwrap();
    assert_eq!(world.launcher.poststop_hooks(&hooks), []);
    assert!(read(world, "state").ends_with("\"status\":\"stopped\"}"));
}
