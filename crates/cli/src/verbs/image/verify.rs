//! `knarr image verify`

use cri_api::knarr::{LayerVerdict, VerifyImagesRequest};

use super::login;
use crate::{
    Error, Io,
    client::{Client, Limit},
    human::{bytes, short_id},
};

/// Compare every file of images with what was unpacked
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// Images: name, digest, id or beginning of an id; all if none is given
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Fetch damaged layers again; containers keep the files they have until they are made anew
    #[arg(long)]
    repair: bool,
    /// Credentials for the registry; a word without a colon names a file that holds them
    #[arg(long, requires = "repair", value_name = "USER:PASSWORD|FILE")]
    creds: Option<String>,
}

impl Verify {
    pub(super) async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let login = login(self.creds.as_deref())?;
        let request = VerifyImagesRequest { images: self.images, repair: self.repair, login };
        let mut service = client.knarr_images();
        let request = service.verify_images(request);
        let mut stream = client.call("verify images", Limit::None, request).await?;
        let (mut of, mut failed) = (0, 0);
        while let Some(verdict) = client.next("verify images", &mut stream).await? {
            of += 1;
            if !verdict.sound && !verdict.repaired {
                failed += 1;
            }
            for line in lines(&verdict) {
                io.line(line)?;
            }
        }
        if failed > 0 {
            return Err(Error::Some { failed, of, done: "found whole" });
        }
        Ok(0)
    }
}

fn lines(verdict: &LayerVerdict) -> Vec<String> {
    let layer = short_id(&verdict.diff_id);
    if verdict.unknown {
        return vec![format!("{layer}  unknown: pulled before files were listed; pull it again")];
    }
    if verdict.sound {
        let (files, bytes) = (verdict.files, bytes(verdict.bytes));
        return vec![format!("{layer}  whole: {files} files, {bytes}")];
    }
    let mut lines = vec![format!("{layer}  DAMAGED: {} differences", verdict.differences)];
    lines.extend(verdict.findings.iter().map(|finding| format!("  {finding}")));
    if verdict.repaired && verdict.problem.is_empty() {
        lines.push(format!("{layer}  repaired"));
    } else if verdict.repaired {
        lines.push(format!("{layer}  repaired; {}", verdict.problem));
    } else if !verdict.problem.is_empty() {
        lines.push(format!("{layer}  not repaired: {}", verdict.problem));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_layer_says_what_differs_and_what_became_of_it() {
        let damaged = LayerVerdict {
            diff_id: "sha256:0123456789abcdef".into(),
            differences: 1,
            findings: vec!["/etc/passwd has other content".into()],
            problem: "layer is used".into(),
            ..Default::default()
        };
        let text = lines(&damaged).join("\n");
        assert!(text.contains("DAMAGED: 1") && text.contains("/etc/passwd"), "{text}");
        assert!(text.ends_with("not repaired: layer is used"), "{text}");
        let used = LayerVerdict { repaired: true, problem: "x keeps it".into(), ..damaged.clone() };
        assert!(lines(&used).join("\n").ends_with("  repaired; x keeps it"));
        let whole = LayerVerdict { sound: true, files: 3, ..damaged };
        assert!(lines(&whole)[0].contains("whole: 3 files"));
    }
}
