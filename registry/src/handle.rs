//! What others in this process may ask of a running Registry.

use std::{path::Path, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};
use wayfare_net::Net;
use wayfare_protocol::{
    advert::Advert,
    ids::HostId,
    registry::{CommandError, Registry, RevokeTarget, audit::Head},
    reject::{Reject, Strict},
    suite::Dalek,
    time::{Micros, Now},
    trust::{JoinToken, Role, Signed},
};

use crate::{
    backup::{self, BackupError},
    view::{self, BackupView, HostView, RecoveryView, ServiceView, StatsView},
};

/// The machine, with real cryptography and every guard.
pub(crate) type Machine = Registry<Dalek, Strict>;

/// Commands that wait for the driver. When full, callers wait.
pub(crate) const COMMANDS_MAX: usize = 64;

/// What a command does with the machine, and how it answers once that is on disk.
pub(crate) type Answer = Box<dyn FnOnce() + Send>;
pub(crate) type Command = Box<dyn FnOnce(&mut Machine, Now) -> Answer + Send>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// It was refused; nothing changed.
    #[error(transparent)]
    Refused(#[from] CommandError),
    /// The backup could not be made.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The Registry has stopped; whether the command took effect is unknown.
    #[error("the registry has stopped")]
    Stopped,
}

/// A running Registry: a cheap handle. Answers of commands that change something come when the change is on disk.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) commands: mpsc::Sender<Command>,
    /// The last entry of the audit log, if there is one.
    pub(crate) audited: watch::Receiver<Option<Head>>,
    pub(crate) net: Net,
}

impl Handle {
    /// Passes an advert on to the machine. One that finds no room is missed: it will be repeated.
    pub(crate) fn heard(&self, advert: Signed<Advert>) {
        let command: Command = Box::new(move |machine, now| {
            // It was verified; if a newer one is known, all the better.
            let _ = machine.handle_advert(now, &advert);
            Box::new(|| ())
        });
        let _ = self.commands.try_send(command);
    }

    /// A peer has connected: if it is a member, it is no stranger. When it finds no room: the peer's first stream says it as well.
    pub(crate) fn vouch(&self, peer: HostId) {
        let net = self.net.clone();
        let command: Command = Box::new(move |machine, _| {
            if machine.is_member(peer) {
                net.vouch(peer);
            }
            Box::new(|| ())
        });
        let _ = self.commands.try_send(command);
    }

    /// Where the first `limit` hosts are reached, as far as the records say.
    pub(crate) async fn whereabouts(&self, limit: usize) -> Result<Vec<(HostId, Vec<String>)>, HandleError> {
        let known = move |machine: &mut Machine, _| {
            machine.whereabouts().take(limit).map(|(host, addresses)| (host, addresses.to_vec())).collect()
        };
        self.call(known).await
    }

    /// Counts what was refused outside the machine. One that finds no room is missed.
    pub(crate) fn count(&self, reject: Reject) {
        let command: Command = Box::new(move |machine, _| {
            machine.count_reject(reject);
            Box::new(|| ())
        });
        let _ = self.commands.try_send(command);
    }

    pub(crate) async fn call<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Machine, Now) -> T + Send + 'static,
    ) -> Result<T, HandleError> {
        let (sender, receiver) = oneshot::channel();
        let command: Command = Box::new(move |machine, now| {
            let result = command(machine, now);
            // Who asked may have gone away: then nobody wants the answer.
            Box::new(move || drop(sender.send(result)))
        });
        self.commands.send(command).await.map_err(|_| HandleError::Stopped)?;
        receiver.await.map_err(|_| HandleError::Stopped)
    }

    /// Allows one node to join as a host of provider `cloud`.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn join_token(&self, cloud: &str, role: Role, ttl: Duration) -> Result<JoinToken, HandleError> {
        let cloud = cloud.to_owned();
        let lifetime = Micros(u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX));
        let made = self.call(move |machine, now| {
            machine.create_join_token(now, &mut crate::clock::entropy(), &cloud, role, lifetime)
        });
        Ok(made.await??)
    }

    /// Revokes a host, by its key in base58, or a provider, by its name.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn revoke(&self, name: &str) -> Result<(), HandleError> {
        let name = name.to_owned();
        let revoked = self.call(move |machine, now| {
            let host = HostId::parse(&name)
                .filter(|host| machine.enrolled().any(|enrolled| enrolled.certificate.host == *host));
            machine.revoke(now, &host.map_or(RevokeTarget::Cloud(name), RevokeTarget::Host))
        });
        Ok(revoked.await??)
    }

    /// Every host that ever enrolled.
    ///
    /// # Errors
    /// [`HandleError::Stopped`].
    pub async fn enrolled(&self) -> Result<Vec<HostView>, HandleError> {
        self.call(|machine, _| view::hosts(machine)).await
    }

    /// Where every service is.
    ///
    /// # Errors
    /// [`HandleError::Stopped`].
    pub async fn placements(&self) -> Result<Vec<ServiceView>, HandleError> {
        self.call(|machine, now| view::services(machine, now)).await
    }

    /// Writes all records to `path`, as they are now: a consistent copy. The directory must be writable for the Registry.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn backup(&self, path: &Path, force: bool) -> Result<BackupView, HandleError> {
        let (path, records) = (path.to_owned(), self.call(|machine, _| machine.records()).await?);
        let log = *self.audited.borrow();
        // Writing takes as long as its disk does: not on a thread that others wait for.
        let written = tokio::task::spawn_blocking(move || backup::write(&records, log, &path, force));
        Ok(written.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?)
    }

    /// How far recovery after a restore has come; `None` if the records were never restored.
    ///
    /// # Errors
    /// [`HandleError::Stopped`].
    pub async fn recovery(&self) -> Result<Option<RecoveryView>, HandleError> {
        self.call(|machine, now| machine.recovery(now).map(RecoveryView::new)).await
    }

    /// How every cloud did, and what was rejected.
    ///
    /// # Errors
    /// [`HandleError::Stopped`].
    pub async fn stats(&self) -> Result<StatsView, HandleError> {
        let net = self.net.counters();
        self.call(move |machine, _| StatsView::new(machine, net)).await
    }
}
