//! The look in parts, side by side. Each asks one place and may wait for it for ever, as for a file system that does
//! not answer: that is given up in time and told, and costs the others nothing.

use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::{Area, Case, Cases, Examination, files, handlers, host, kernel, network};
use crate::context::Context;
use crate::manager::Sandboxes;
use crate::networks::LivePods;

/// What is looked at in one place.
struct Part {
    area: Area,
    /// As people know it.
    place: String,
    look: Box<dyn FnOnce(&mut Examination<'_>) + Send>,
}

impl Part {
    fn new(
        area: Area,
        place: impl Into<String>,
        look: impl FnOnce(&mut Examination<'_>) + Send + 'static,
    ) -> Self {
        Self { area, place: place.into(), look: Box::new(look) }
    }

    /// One that looks at a path.
    fn at(
        area: Area,
        path: &Path,
        look: impl FnOnce(&mut Examination<'_>) + Send + 'static,
    ) -> Self {
        Self::new(area, path.to_string_lossy(), look)
    }

    /// What there is to be told; that the place does not answer is as well.
    async fn cases(self, cx: Arc<Context>) -> Vec<Case> {
        let Self { area, place, look } = self;
        let looks = Arc::clone(&cx);
        let work = move || {
            let live = LivePods(Arc::clone(&looks));
            let mut examination = Examination { cx: &looks, live, cases: Cases::default() };
            look(&mut examination);
            examination.cases.0
        };
        cx.unseen.work_at(&place, work).await.unwrap_or_else(|_silent| {
            let mut cases = Cases::default();
            let problem = "cannot be looked at: it does not answer".to_owned();
            cases.problem(area, &place, problem, SILENT);
            cases.0
        })
    }
}

/// What to do about a file system that does not answer.
pub(super) const SILENT: &str = "unmount what is dead, or bring its server back";

impl Sandboxes {
    /// Everything, in the order in which it is to be mended.
    pub(super) async fn look(&self) -> Vec<Case> {
        let mut looking = JoinSet::new();
        for (index, part) in self.parts().into_iter().enumerate() {
            let cx = Arc::clone(&self.cx);
            looking.spawn(async move { (index, part.cases(cx).await) });
        }
        let asked = handlers::ask(&self.cx).await;
        let mut seen = looking.join_all().await;
        seen.sort_by_key(|(index, _)| *index);
        seen.into_iter().flat_map(|(_, cases)| cases).chain(asked).collect()
    }

    fn parts(&self) -> Vec<Part> {
        let (paths, status) = (self.cx.paths(), self.network_status());
        let mut parts = vec![
            Part::at(Area::Record, paths.root(), files::records),
            Part::new(Area::Process, "/proc", kernel::processes),
            Part::new(Area::Cgroup, "/sys/fs/cgroup", kernel::cgroups),
            Part::new(Area::Netns, crate::paths::NETNS, kernel::namespaces),
            Part::new(Area::Mount, "/proc/self/mountinfo", |it| {
                kernel::mounts(&mut it.cases, it.cx.paths(), &it.live);
            }),
            Part::new(Area::Address, "the pods' networks", |it| {
                network::attachments(&mut it.cases, &it.cx.parts.network, &it.live);
            }),
            Part::new(Area::Link, "links and host ports", |it| {
                network::strays(&mut it.cases, &it.cx.parts.network, &it.live);
            }),
            Part::at(Area::State, &paths.pod_states(), files::states),
            Part::at(Area::Layer, &paths.root().join("layers"), files::layers_of_all),
            Part::at(Area::Ingest, &paths.root().join("ingest"), files::ingests),
            Part::new(Area::Host, "the host", move |it| host::all(it, &status)),
        ];
        for dir in [paths.root(), paths.state()] {
            let looked_at = dir.to_owned();
            parts.push(Part::at(Area::Host, dir, move |it| host::room(&mut it.cases, &looked_at)));
        }
        let specs = self.cx.parts.handlers.known.iter();
        let specs = specs.filter_map(|(name, it)| Some((name.clone(), it.base_spec.clone()?)));
        for (name, path) in specs {
            let place = path.to_string_lossy().into_owned();
            parts.push(Part::new(Area::Handler, place, move |it| {
                handlers::base_spec(&mut it.cases, &name, &path);
            }));
        }
        parts
    }
}
