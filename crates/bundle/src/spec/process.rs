//! `process`: what runs, with which environment, as whom.

use model::{ContainerConfig, EnvVar, ImageConfig};
use oci_spec::runtime::{Process, User};

use crate::{
    ContainerInput, SelinuxLabels, SpecError, apparmor,
    capability::{self, CapabilityMasks},
    path,
};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// CRI: `working_dir` is a path in the container; an image's may be relative to its root.
pub(super) fn check(config: &ContainerConfig) -> Result<(), SpecError> {
    oom_score_adj(config.resources.oom_score_adj)?;
    let dir = &config.working_dir;
    if dir.is_empty() || path::is_absolute(dir) {
        Ok(())
    } else {
        Err(SpecError::invalid("working_dir", dir.escape_debug(), path::ABSOLUTE))
    }
}

pub(super) fn process(
    input: &ContainerInput<'_>,
    capabilities: CapabilityMasks,
    labels: Option<&SelinuxLabels>,
) -> Result<Process, SpecError> {
    let ContainerInput { config, image, .. } = input;
    let mut user = User::default();
    user.set_uid(input.user.uid)
        .set_gid(input.user.gid)
        .set_additional_gids(Some(input.user.groups.clone()));

    let home = input.user.home.as_deref().unwrap_or("/");
    let env = environment(config, image, input.hostname, home)?;
    // The type's default is a sample configuration: every field is set here.
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_user(user)
        .set_args(Some(process_args(config, image)?))
        .set_env(Some(as_text(env)))
        .set_cwd(working_dir(config, image).into())
        .set_capabilities(Some(capability::to_oci(capabilities)))
        .set_rlimits(None)
        .set_no_new_privileges(Some(config.security.no_new_privs))
        .set_apparmor_profile(apparmor::profile(
            config.security.apparmor.as_ref(),
            input.privileged(),
            input.host,
        )?)
        .set_selinux_label(labels.map(|labels| labels.process.clone()))
        .set_oom_score_adj(Some(oom_score_adj(config.resources.oom_score_adj)?));
    Ok(process)
}

/// What to run: the request's command with its arguments, else the image's entrypoint with the
/// request's arguments or else the image's.
///
/// # Errors
/// [`SpecError::NoCommand`] when nothing is left to run.
pub fn process_args(
    config: &ContainerConfig,
    image: &ImageConfig,
) -> Result<Vec<String>, SpecError> {
    // Builders reset an inherited entrypoint to one empty text.
    let entrypoint =
        Some(&image.entrypoint).filter(|words| !matches!(&words[..], [w] if w.is_empty()));
    let (program, arguments) = if !config.command.is_empty() {
        (Some(&config.command), &config.args)
    } else if !config.args.is_empty() {
        (entrypoint, &config.args)
    } else {
        (entrypoint, &image.cmd)
    };
    let args: Vec<String> = program.into_iter().flatten().chain(arguments).cloned().collect();
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand);
    }
    Ok(args)
}

fn working_dir(config: &ContainerConfig, image: &ImageConfig) -> String {
    let asked = [&config.working_dir, &image.working_dir];
    path::clean(asked.into_iter().find(|dir| !dir.is_empty()).map_or("/", String::as_str))
}

/// The environment, one entry per name: `PATH`, `HOME`, `TERM` with a terminal, `HOSTNAME`, the
/// image's, the request's; a later one replaces the value of an earlier one in its place.
///
/// # Errors
/// [`SpecError::Invalid`] for names and values no process can be given.
pub fn environment(
    config: &ContainerConfig,
    image: &ImageConfig,
    hostname: &str,
    home: &str,
) -> Result<Vec<EnvVar>, SpecError> {
    let mut env: Vec<EnvVar> = Vec::new();
    let mut put = |key: &str, value: &[u8]| match env.iter_mut().find(|known| known.key == key) {
        Some(known) => known.value = value.to_vec(),
        None => env.push(EnvVar { key: key.to_owned(), value: value.to_vec() }),
    };
    put("PATH", DEFAULT_PATH.as_bytes());
    put("HOME", home.as_bytes());
    if config.tty {
        put("TERM", b"xterm");
    }
    if !hostname.is_empty() {
        put("HOSTNAME", hostname.as_bytes());
    }
    // An image's entry without `=` means nothing.
    for (key, value) in image.env.iter().filter_map(|entry| entry.split_once('=')) {
        if !key.is_empty() {
            put(key, value.as_bytes());
        }
    }
    for EnvVar { key, value } in &config.envs {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(SpecError::invalid("envs", key.escape_debug(), "a name without `=`"));
        }
        if value.contains(&0) {
            return Err(SpecError::invalid("envs", key, "a value without NUL"));
        }
        put(key, value);
    }
    Ok(env)
}

/// The spec is JSON, which has no bytes that are not text: those show as replacement characters, as in
/// the peers' specs. Who launches puts the bytes themselves back.
fn as_text(env: Vec<EnvVar>) -> Vec<String> {
    let entry = |EnvVar { key, value }| format!("{key}={}", String::from_utf8_lossy(&value));
    env.into_iter().map(entry).collect()
}

fn oom_score_adj(value: i64) -> Result<i32, SpecError> {
    match i32::try_from(value) {
        Ok(small @ -1000..=1000) => Ok(small),
        Ok(_) | Err(_) => Err(SpecError::invalid("oom_score_adj", value, "-1000 to 1000")),
    }
}
