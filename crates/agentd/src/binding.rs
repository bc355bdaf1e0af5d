//! Whose sandbox this is: decided once, for the life of the VM.
//!
//! A binding counts when it is on disk, in a directory that no other container mounts, and only then
//! is it answered; so a restart of `agentd` finds what it promised. The user stays for ever, but the
//! key need not: keys follow from the gateway's master key, and when that is rotated the control
//! plane binds the same user with another. A file that can't be read means that there *was* a user:
//! everything is refused from then on, since "unbound" would let a second user in.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use carapace_core::UserKey;
use carapace_core::agentd::{BindRequest, ErrorName, ModelKey};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::files;

const FILE_NAME: &str = "binding.json";
const FORMAT: u8 = 1;
/// Many times the longest binding.
const MAX_BYTES: u64 = 4096;

/// What is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u8,
    user_key: UserKey,
    model_key: ModelKey,
}

/// A user and the key of the user's model calls.
#[derive(Debug, Clone)]
pub struct Binding {
    /// The user.
    pub user_key: UserKey,
    /// Never leaves `agentd` except towards the model gateway.
    pub model_key: ModelKey,
}

impl From<BindRequest> for Binding {
    fn from(request: BindRequest) -> Self {
        Self {
            user_key: request.user_key,
            model_key: request.model_key,
        }
    }
}

impl Binding {
    /// Takes as long for a nearly right key as for a wrong one.
    fn is_same_as(&self, other: &Self) -> bool {
        let key = self
            .model_key
            .expose()
            .as_bytes()
            .ct_eq(other.model_key.expose().as_bytes());
        self.is_of(&other.user_key) && bool::from(key)
    }

    fn is_of(&self, user: &UserKey) -> bool {
        self.user_key == *user
    }
}

/// What is known of the binding.
#[derive(Debug, Clone)]
pub enum State {
    /// No user yet.
    Unbound,
    /// Asked for, but not on disk: it isn't served, and nobody else may have the sandbox either.
    Unstored(Binding),
    /// Served.
    Bound(Binding),
    /// There is a file and it can't be read.
    Unreadable,
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Store,
    /// The same user, another key: the old one is served until the new one is on disk.
    Rekey,
    AlreadyBound,
    Refuse(ErrorName),
}

fn decide(state: &State, wanted: &Binding) -> Decision {
    match state {
        State::Unbound => Decision::Store,
        State::Unstored(binding) if binding.is_of(&wanted.user_key) => Decision::Store,
        State::Bound(binding) if binding.is_same_as(wanted) => Decision::AlreadyBound,
        State::Bound(binding) if binding.is_of(&wanted.user_key) => Decision::Rekey,
        State::Unstored(_) | State::Bound(_) => Decision::Refuse(ErrorName::BoundToAnother),
        State::Unreadable => Decision::Refuse(ErrorName::BindingUnreadable),
    }
}

/// The binding of this sandbox.
#[derive(Debug)]
pub struct BindingStore {
    path: PathBuf,
    state: RwLock<Arc<State>>,
    /// Two calls at once are decided one after the other.
    writing: tokio::sync::Mutex<()>,
}

impl BindingStore {
    /// Finds what an earlier run left in the private directory.
    pub fn open(private_dir: &Path) -> Self {
        let path = private_dir.join(FILE_NAME);
        let state = load(&path).unwrap_or_else(|error| {
            tracing::error!(path = %path.display(), %error, "the binding is unreadable: refusing all");
            State::Unreadable
        });
        Self {
            path,
            state: RwLock::new(Arc::new(state)),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// What is known now.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The user's binding, once there is one.
    pub fn bound(&self) -> Result<Option<Binding>, ErrorName> {
        match &*self.state() {
            State::Bound(binding) => Ok(Some(binding.clone())),
            State::Unbound | State::Unstored(_) => Ok(None),
            State::Unreadable => Err(ErrorName::BindingUnreadable),
        }
    }

    /// Binds to the user for ever, and to the key until the user comes with another. Returns when it
    /// is on disk.
    pub async fn bind(&self, wanted: Binding) -> Result<(), ErrorName> {
        let _one_at_a_time = self.writing.lock().await;
        let decision = decide(&self.state(), &wanted);
        match decision {
            Decision::AlreadyBound => return Ok(()),
            Decision::Refuse(name) => return Err(name),
            Decision::Store => self.set(State::Unstored(wanted.clone())),
            Decision::Rekey => {}
        }
        let (path, binding) = (self.path.clone(), wanted.clone());
        let stored = tokio::task::spawn_blocking(move || store(&path, &binding)).await;
        if let Err(error) = stored.map_err(io::Error::other).flatten() {
            tracing::error!(path = %self.path.display(), %error, "the binding could not be stored");
            return Err(ErrorName::BindingNotStored);
        }
        let rekeyed = decision == Decision::Rekey;
        tracing::info!(user_key = %wanted.user_key, rekeyed, "bound");
        self.set(State::Bound(wanted));
        Ok(())
    }

    fn set(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }
}

fn load(path: &Path) -> io::Result<State> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Unbound),
        opened => opened?,
    };
    let mut json = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut json)?;
    // serde's own message could quote the key.
    let stored: Stored = serde_json::from_slice(&json)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not a binding"))?;
    if stored.format != FORMAT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is of another format",
        ));
    }
    Ok(State::Bound(Binding {
        user_key: stored.user_key,
        model_key: stored.model_key,
    }))
}

fn store(path: &Path, binding: &Binding) -> io::Result<()> {
    let Binding {
        user_key,
        model_key,
    } = binding.clone();
    files::replace(
        path,
        &serde_json::to_vec(&Stored {
            format: FORMAT,
            user_key,
            model_key,
        })?,
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn binding(user: &str, key: &str) -> Binding {
        Binding {
            user_key: serde_json::from_value(user.into()).unwrap(),
            model_key: ModelKey::parse(key).unwrap(),
        }
    }

    const ALICE: &str = "aaaaaaaaaaaaaaaaaaaa";
    const BOB: &str = "bbbbbbbbbbbbbbbbbbbb";

    #[tokio::test]
    async fn the_same_again_changes_nothing_and_another_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = BindingStore::open(directory.path());
        store.bind(binding(ALICE, "sk-a")).await.unwrap();
        let written = fs::read(directory.path().join(FILE_NAME)).unwrap();
        store.bind(binding(ALICE, "sk-a")).await.unwrap();
        for key in ["sk-a", "sk-b"] {
            let refused = store.bind(binding(BOB, key)).await;
            assert_eq!(refused, Err(ErrorName::BoundToAnother), "{key}");
        }
        assert_eq!(fs::read(directory.path().join(FILE_NAME)).unwrap(), written);
    }

    #[tokio::test]
    async fn another_key_of_the_same_user_takes_the_place_of_the_old_one_also_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let store = BindingStore::open(directory.path());
        store.bind(binding(ALICE, "sk-a")).await.unwrap();
        for key in ["sk-b", "sk-aa", "sk-a"] {
            store.bind(binding(ALICE, key)).await.unwrap();
            let wanted = binding(ALICE, key);
            for store in [&store, &BindingStore::open(directory.path())] {
                assert!(store.bound().unwrap().unwrap().is_same_as(&wanted), "{key}");
            }
            let refused = store.bind(binding(BOB, key)).await;
            assert_eq!(refused, Err(ErrorName::BoundToAnother), "{key}");
        }
    }

    #[tokio::test]
    async fn a_key_that_could_not_be_stored_leaves_the_old_one_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let private = directory.path().join("private");
        fs::create_dir(&private).unwrap();
        let store = BindingStore::open(&private);
        store.bind(binding(ALICE, "sk-a")).await.unwrap();
        let aside = directory.path().join("aside");
        fs::rename(&private, &aside).unwrap();
        let failed = store.bind(binding(ALICE, "sk-b")).await;
        assert_eq!(failed, Err(ErrorName::BindingNotStored));
        let served = store.bound().unwrap().unwrap();
        assert!(served.is_same_as(&binding(ALICE, "sk-a")), "still served");
        fs::rename(&aside, &private).unwrap();
        store.bind(binding(ALICE, "sk-b")).await.unwrap();
        let served = store.bound().unwrap().unwrap();
        assert!(served.is_same_as(&binding(ALICE, "sk-b")));
    }

    #[tokio::test]
    async fn a_restart_keeps_the_binding_and_the_file_is_private() {
        let directory = tempfile::tempdir().unwrap();
        BindingStore::open(directory.path())
            .bind(binding(ALICE, "sk-a"))
            .await
            .unwrap();
        let path = directory.path().join(FILE_NAME);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let restarted = BindingStore::open(directory.path());
        assert!(
            restarted
                .bound()
                .unwrap()
                .unwrap()
                .is_same_as(&binding(ALICE, "sk-a"))
        );
        let other = restarted.bind(binding(BOB, "sk-b")).await;
        assert_eq!(other, Err(ErrorName::BoundToAnother));
    }

    #[tokio::test]
    async fn what_a_crash_left_behind_before_the_rename_does_not_bind() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("binding.new"), "{\"format\":1,\"user").unwrap();
        let store = BindingStore::open(directory.path());
        assert!(store.bound().unwrap().is_none());
        store.bind(binding(ALICE, "sk-a")).await.unwrap();
        assert!(
            BindingStore::open(directory.path())
                .bound()
                .unwrap()
                .is_some()
        );
    }

    #[tokio::test]
    async fn an_unreadable_binding_is_not_unbound() {
        let good = format!(r#"{{"format":1,"user_key":"{ALICE}","model_key":"sk-a"}}"#);
        let long = good.replace("sk-a", &"k".repeat(5000));
        for damaged in [
            "",
            "{}",
            "null",
            &good[..good.len() - 1],
            &format!("{good}x"),
            &good.replace("\"format\":1", "\"format\":2"),
            &good.replace(ALICE, "ALICE"),
            &good.replace("sk-a", ""),
            &good.replace('{', "{\"extra\":1,"),
            &long,
        ] {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join(FILE_NAME), damaged).unwrap();
            let store = BindingStore::open(directory.path());
            assert_eq!(
                store.bound().unwrap_err(),
                ErrorName::BindingUnreadable,
                "{damaged}"
            );
            let refused = store.bind(binding(ALICE, "sk-a")).await;
            assert_eq!(refused, Err(ErrorName::BindingUnreadable), "{damaged}");
            let untouched = fs::read_to_string(directory.path().join(FILE_NAME)).unwrap();
            assert_eq!(untouched, damaged);
        }
    }

    #[tokio::test]
    async fn a_binding_that_could_not_be_stored_is_kept_for_its_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let private = directory.path().join("private");
        let store = BindingStore::open(&private);
        let failed = store.bind(binding(ALICE, "sk-a")).await;
        assert_eq!(failed, Err(ErrorName::BindingNotStored));
        assert!(
            store.bound().unwrap().is_none(),
            "not served before it is on disk"
        );
        fs::create_dir(&private).unwrap();
        assert_eq!(
            store.bind(binding(BOB, "sk-b")).await,
            Err(ErrorName::BoundToAnother)
        );
        store.bind(binding(ALICE, "sk-a")).await.unwrap();
        assert!(store.bound().unwrap().is_some());
    }

    #[tokio::test]
    async fn of_two_users_at_once_one_wins() {
        let directory = tempfile::tempdir().unwrap();
        let store = BindingStore::open(directory.path());
        let both = futures::join!(
            store.bind(binding(ALICE, "sk-a")),
            store.bind(binding(BOB, "sk-b"))
        );
        assert_eq!(both, (Ok(()), Err(ErrorName::BoundToAnother)));
    }
}
