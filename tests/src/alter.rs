//! Tables of alterations: one row for each field of a message, with the rejection that it must provoke.

use std::{fmt, sync::Arc};

use wayfare_protocol::{
    ids::{
        ClientId, CloudId, Digest, HostId, MigrationId, MigrationIds, Nonce, OwnerKey, PlacementKey, RegistryId,
        ServiceId,
    },
    manifest::{Resources, ServiceType},
    migration::messages::{Decision, Mode},
    reject::Reject,
    time::{Micros, Timestamp},
    trust::Role,
};

/// What becomes of a message that its legitimate signer has altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It is refused by this name.
    Refused(Reject),
    /// It is sent, changes nothing, and is no fault: for the reason given.
    Ignored(&'static str),
    /// The receiver has nothing to compare it with: the signer's own word, for the reason given. Not sent; an alteration
    /// by anybody else is still refused.
    Free(&'static str),
}

impl From<Reject> for Expect {
    fn from(reject: Reject) -> Self {
        Self::Refused(reject)
    }
}

/// Changes a value of `T`.
pub type Edit<T> = Arc<dyn Fn(&mut T) + Send + Sync>;

/// One alteration of one field.
pub struct Row<T> {
    /// The field's path, with dots.
    pub field: String,
    /// The alteration.
    pub edit: Edit<T>,
    /// What becomes of the message if its legitimate signer did it.
    pub resigned: Expect,
    /// What becomes of it if the signature is left as it was; `None`: what a bad signature leads to there.
    pub raw: Option<Reject>,
}

impl<T> Clone for Row<T> {
    fn clone(&self) -> Self {
        let Self { field, edit, resigned, raw } = self;
        Self { field: field.clone(), edit: Arc::clone(edit), resigned: *resigned, raw: *raw }
    }
}

impl<T> fmt::Debug for Row<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} => {:?}", self.field, self.resigned)
    }
}

impl<T: 'static> Row<T> {
    /// A row; spaces in `field` do not count.
    pub fn new(
        field: &str,
        edit: impl Fn(&mut T) + Send + Sync + 'static,
        resigned: impl Into<Expect>,
        raw: Option<Reject>,
    ) -> Self {
        Self { field: field.replace(' ', ""), edit: Arc::new(edit), resigned: resigned.into(), raw }
    }
}

/// The rows of one message.
#[derive(Clone, Debug)]
pub struct Table<T>(pub Vec<Row<T>>);

impl<T: 'static> Table<T> {
    /// Adds the rows of a part of the message.
    #[must_use]
    pub fn nest<U: 'static>(mut self, prefix: &str, part: fn(&mut T) -> &mut U, inner: Table<U>) -> Self {
        for Row { field, edit, resigned, raw } in inner.0 {
            let edit: Edit<T> = Arc::new(move |whole| edit(part(whole)));
            self.0.push(Row { field: format!("{prefix}.{field}"), edit, resigned, raw });
        }
        self
    }

    /// Adds the rows of another table of the same message.
    #[must_use]
    pub fn and(mut self, mut other: Self) -> Self {
        self.0.append(&mut other.0);
        self
    }

    fn find(&mut self, field: &str) -> &mut Row<T> {
        self.0.iter_mut().find(|row| row.field == field).unwrap_or_else(|| panic!("no row for {field}"))
    }

    /// Changes what a row expects.
    #[must_use]
    pub fn but(mut self, field: &str, expect: impl Into<Expect>) -> Self {
        self.find(field).resigned = expect.into();
        self
    }

    /// Changes what a row expects of a message whose signature was left as it was.
    #[must_use]
    pub fn raw(mut self, field: &str, reject: Reject) -> Self {
        self.find(field).raw = Some(reject);
        self
    }

    /// The fields that have a row.
    pub fn fields(&self) -> Vec<String> {
        self.0.iter().map(|row| row.field.clone()).collect()
    }
}

/// Rows for the fields of a struct: `field.path [= edit] => expectation [, raw rejection];`. Without an edit, the field is
/// [flipped](Flip).
#[macro_export]
macro_rules! rows {
    ($t:ty { $($($f:ident).+ $(= $edit:expr)? => $expect:expr $(, raw $raw:expr)?;)* }) => {
        $crate::alter::Table::<$t>(vec![$(
            $crate::alter::Row::new(
                stringify!($($f).+),
                $crate::rows!(@edit $t, [$($f).+], $($edit)?),
                $expect,
                $crate::rows!(@raw $($raw)?),
            ),
        )*])
    };
    (@edit $t:ty, [$($f:ident).+],) => { |whole: &mut $t| $crate::alter::Flip::flip(&mut whole.$($f).+) };
    (@edit $t:ty, [$($f:ident).+], $edit:expr) => { |whole: &mut $t| $crate::alter::apply(&mut whole.$($f).+, $edit) };
    (@raw) => { None };
    (@raw $raw:expr) => { Some($raw) };
}

/// Lets the compiler infer what `edit` takes.
pub fn apply<T>(value: &mut T, edit: impl FnOnce(&mut T)) {
    edit(value);
}

/// Changes a value into another of the same kind.
pub trait Flip {
    /// Changes it.
    fn flip(&mut self);
}

impl<const N: usize> Flip for [u8; N] {
    fn flip(&mut self) {
        self[0] ^= 1;
    }
}

macro_rules! flips {
    ($($t:ty: $value:ident => $change:expr;)*) => {
        $(impl Flip for $t {
            fn flip(&mut self) {
                let $value = self;
                $change;
            }
        })*
    };
}

flips! {
    u64: value => *value ^= 1;
    u32: value => *value ^= 1;
    bool: value => *value = !*value;
    String: value => value.push('x');
    Timestamp: value => value.0 ^= 1;
    Micros: value => value.0 ^= 1;
    RegistryId: value => value.0.flip();
    CloudId: value => value.0.flip();
    HostId: value => value.0.flip();
    MigrationId: value => value.0.flip();
    ClientId: value => value.0.flip();
    Digest: value => value.0.flip();
    PlacementKey: value => value.0.flip();
    OwnerKey: value => value.0.flip();
    Nonce: value => value.0.flip();
    Vec<u8>: value => value[0] ^= 1;
    Option<Digest>: value => *value = if value.is_some() { None } else { Some(Digest([1; 32])) };
    ServiceType: value => *value = match value {
        ServiceType::Cloud => ServiceType::Request,
        ServiceType::Request => ServiceType::Cloud,
    };
    Mode: value => *value = match value {
        Mode::Registry => Mode::Token,
        Mode::Token => Mode::Registry,
    };
    Decision: value => *value = match value {
        Decision::Won => Decision::Aborted,
        Decision::Aborted => Decision::Won,
    };
    Role: value => *value = match value {
        Role::Cloud => Role::Home,
        Role::Home => Role::Gateway,
        Role::Gateway => Role::Cloud,
    };
}

/// The rows of [`MigrationIds`] where each part is compared, as `check_ids` does.
pub fn ids() -> Table<MigrationIds> {
    rows!(MigrationIds {
        cloud => Reject::WrongCloud;
        host => Reject::WrongCloud;
        mig => Reject::WrongMigration;
        epoch.era => Reject::WrongEpoch;
        epoch.hop => Reject::WrongEpoch;
    })
    .nest("service", |ids| &mut ids.service, service(Reject::WrongService))
}

/// The rows of a service's identifier.
pub fn service(reject: Reject) -> Table<ServiceId> {
    rows!(ServiceId {
        registry => reject;
        unique => reject;
    })
}

/// The rows of resources that must suffice.
pub fn too_little(reject: Reject) -> Table<Resources> {
    rows!(Resources {
        cpu_millicores = |amount| *amount = 0 => reject;
        memory_bytes = |amount| *amount = 0 => reject;
        storage_bytes = |amount| *amount = 0 => reject;
        bandwidth_bps = |amount| *amount = 0 => reject;
    })
}
