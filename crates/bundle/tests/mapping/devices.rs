//! Rows of `linux.devices` and the rules about them.

use bundle::{DeviceKind, HostDevice, ResolvedDevice};
use serde_json::json;

use crate::case::{Case, refused, row};

fn asks(case: &mut Case, kind: DeviceKind, permissions: &str) {
    let node = HostDevice {
        path: "/dev//x".into(),
        kind,
        major: 10,
        minor: 7,
        mode: 0o20_640,
        uid: 1,
        gid: 2,
    };
    case.devices.push(ResolvedDevice { node, permissions: permissions.into() });
}

#[test]
fn host_path_container_path_and_permissions() {
    for (kind, letter) in [(DeviceKind::Char, "c"), (DeviceKind::Block, "b")] {
        for (permissions, access) in [("rwm", "rwm"), ("r", "r"), ("mw", "mw"), ("", "rwm")] {
            let node = json!({
                "path": "/dev/x", "type": letter, "major": 10, "minor": 7, "fileMode": 0o640,
                "uid": 1, "gid": 2,
            });
            let rule = json!({
                "allow": true, "type": letter, "major": 10, "minor": 7, "access": access,
            });
            row(
                |case| asks(case, kind, permissions),
                json!({ "/linux/devices +": [node], "/linux/resources/devices +": [rule] }),
            );
        }
    }
    refused(|case| asks(case, DeviceKind::Char, "rx"), "`devices.permissions` is `rx`");
}
