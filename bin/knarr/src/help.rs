//! The help of `knarr` itself: verbs by purpose, then examples.

use clap::Command;

const GROUPS: &[(&str, &[&str])] = &[
    (
        "Pods and containers",
        &[
            "run",
            "pods",
            "ps",
            "logs",
            "exec",
            "attach",
            "port-forward",
            "inspect",
            "stats",
            "stop",
            "rm",
        ],
    ),
    ("Images", &["pull", "images", "rmi", "image", "df"]),
    ("The runtime", &["serve", "config", "doctor", "net", "info", "oci", "version"]),
];

const EXAMPLES: &str = "\
Examples:
  knarr pull docker.io/library/nginx:1.29   pull an image, with a bar for each layer
  knarr image verify                        compare all images' files with what was pulled
  knarr run web.yaml                        run a pod from a Kubernetes manifest
  knarr run --dry-run web.yaml              show what that would ask of the runtime
  knarr ps -a                               all containers, also those that have exited
  knarr logs -f --tail 20 web/nginx         follow container nginx of pod web
  knarr exec web/nginx -- cat /etc/hosts    run a command; its exit code is ours
  knarr exec -it web/nginx sh               a shell in a container
  knarr port-forward web 8080:80            reach port 80 of pod web at 127.0.0.1:8080
  knarr rm -f default/web                   stop and remove a pod and its volumes
  knarr -a /run/containerd/containerd.sock ps
                                            the same verbs against another runtime

Ids may be shortened, and pods and containers go by NAME, NAMESPACE/NAME, POD/NAME too.
Exit code: 0 done, 1 failed, 2 wrong usage; that of the command for `exec`.";

/// Puts the verbs under the headings of [`GROUPS`].
pub(crate) fn grouped(command: Command) -> Command {
    let width =
        command.get_subcommands().map(|verb| verb.get_name().len()).max().unwrap_or_default();
    let mut groups = String::new();
    for (title, names) in GROUPS {
        groups += &format!("{title}:\n");
        for name in *names {
            let about = command
                .find_subcommand(name)
                .and_then(Command::get_about)
                .map(ToString::to_string)
                .unwrap_or_default();
            groups += &format!("  {name:width$}  {about}\n");
        }
        groups.push('\n');
    }
    let template = format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{groups}Options:\n{{options}}\n\n{EXAMPLES}\n"
    );
    command.help_template(template)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_verb_is_in_the_help_once() {
        let command = crate::Arguments::command();
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let listed = GROUPS
                .iter()
                .flat_map(|(_, names)| *names)
                .filter(|name| **name == verb.get_name())
                .count();
            assert_eq!(listed, usize::from(verb.get_name() != "help"), "{}", verb.get_name());
            assert!(verb.get_about().is_some(), "{} says nothing", verb.get_name());
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        grouped(crate::Arguments::command()).debug_assert();
    }

    #[test]
    fn the_socket_is_named_before_or_after_the_verb() {
        use clap::Parser as _;
        for line in [
            vec!["knarr", "-a", "/x", "ps", "-a"],
            vec!["knarr", "--address", "/x", "ps", "-a"],
            vec!["knarr", "ps", "-a", "--address", "/x"],
            vec![
                "knarr",
                "--timeout",
                "5s",
                "--address=/x",
                "exec",
                "--timeout",
                "1s",
                "c",
                "ls",
                "-a",
            ],
        ] {
            let arguments = crate::Arguments::try_parse_from(&line).unwrap();
            assert_eq!(arguments.connection.address(), "/x", "{line:?}");
        }
    }
}
