//! Which handler a request means, and whether its runtime can do what is asked.

use super::probe::Again;
use super::{Features, Handler, HandlerState, RuntimeKind};
use crate::context::Context;
use crate::error::RunError;
use crate::manager::Sandboxes;

impl Context {
    /// The name of a handler; requests may leave the default one's away.
    pub(crate) fn handler_name<'a>(&'a self, requested: &'a str) -> &'a str {
        if requested.is_empty() { &self.parts.handlers.default } else { requested }
    }

    /// What the built-in runtime can do here.
    fn own_features(&self) -> Features {
        Features {
            recursive_read_only: self.parts.host.recursive_read_only,
            user_namespaces: self.user_namespaces.is_ok(),
            without_seccomp: false,
        }
    }

    /// What a handler's containers may have: what its runtime has, and the host.
    pub(crate) fn features(&self, name: &str, handler: &Handler) -> Result<Features, String> {
        let own = self.own_features();
        if handler.program.is_none() {
            return Ok(own);
        }
        let silent = || "its runtime has not answered yet what it can do".to_owned();
        let probed = self.probes.get(name).ok_or_else(silent)??.features;
        Ok(Features {
            recursive_read_only: own.recursive_read_only && probed.recursive_read_only,
            user_namespaces: own.user_namespaces && probed.user_namespaces,
            without_seccomp: probed.without_seccomp,
        })
    }
}

impl Sandboxes {
    /// The runtime handlers as they are, the default one first.
    pub fn handlers(&self) -> Vec<HandlerState> {
        let handlers = &self.cx.parts.handlers;
        let default = handlers.known.get_key_value(&handlers.default);
        let others = handlers.known.iter().filter(|(name, _)| **name != handlers.default);
        let state = |(name, handler): (&String, &Handler)| HandlerState {
            name: name.clone(),
            path: handler.program.as_ref().map(|program| program.path.clone()),
            version: self.cx.probes.get(name).and_then(Result::ok).map(|probed| probed.version),
            unfiltered_exec: handler
                .program
                .as_ref()
                .is_some_and(|program| program.kind == RuntimeKind::Sandbox),
            features: self.cx.features(name, handler),
        };
        default.into_iter().chain(others).map(state).collect()
    }

    /// The handler a pod asks for. One whose runtime did not work when it was last asked, or is another
    /// since, is asked again.
    ///
    /// # Errors
    /// There is none of that name, or its runtime cannot be run, or cannot give what is asked for.
    pub(crate) async fn usable_handler(
        &self,
        requested: &str,
        own_users: bool,
    ) -> Result<Handler, RunError> {
        let handlers = &self.cx.parts.handlers;
        let name = self.cx.handler_name(requested);
        let Some(handler) = handlers.known.get(name) else {
            let known: Vec<&str> = handlers.known.keys().map(String::as_str).collect();
            let (handler, known) = (name.to_owned(), known.join(", "));
            return Err(RunError::UnknownHandler { handler, known });
        };
        let Some(program) = &handler.program else { return Ok(handler.clone()) };
        // A program may have been removed since, or installed, or mended. One that does not answer is taken for what
        // it was before, if it was anything.
        self.cx.ask_in_time(name, program, Again::IfBroken).await;
        let features = self
            .cx
            .features(name, handler)
            .map_err(|reason| RunError::BrokenHandler { handler: name.to_owned(), reason })?;
        if own_users && self.cx.user_namespaces.is_ok() && !features.user_namespaces {
            return Err(RunError::HandlerWithoutUsers { handler: name.to_owned() });
        }
        Ok(handler.clone())
    }
}
