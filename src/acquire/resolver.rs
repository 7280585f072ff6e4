//! Host names, looked up once: `ureq` would ask anew for each request, even on a connection that is
//! there, and a single lost answer costs its request the five seconds of resolv.conf(5).

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ureq::{
    Error,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::NextTimeout,
    },
};

/// How long an answer is used. Mirrors that move have records that live about as long.
const LIFETIME: Duration = Duration::from_secs(60);

/// The system's resolver with a memory. Failures are not remembered: they are tried again.
#[derive(Debug, Default)]
pub(super) struct Remembering {
    system: DefaultResolver,
    known: Mutex<HashMap<String, (Instant, Vec<SocketAddr>)>>,
}

impl Resolver for Remembering {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        // The port is part of an address, and may be the scheme's.
        let key = format!(
            "{}://{}",
            uri.scheme_str().unwrap_or_default(),
            uri.authority().map_or("", |a| a.as_str())
        );
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, addresses)) = known().get(&key)
            && since.elapsed() < LIFETIME
        {
            let mut resolved = self.empty();
            addresses.iter().for_each(|address| resolved.push(*address));
            return Ok(resolved);
        }
        let resolved = self.system.resolve(uri, config, timeout)?;
        known().insert(key, (Instant::now(), resolved.iter().copied().collect()));
        Ok(resolved)
    }
}
