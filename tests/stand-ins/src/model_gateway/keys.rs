//! Virtual keys, by the hash that the real proxy stores instead of the key.

use std::collections::HashMap;

use axum::http::StatusCode;
use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Failure;
use super::users::User;
use crate::model::Fault;

const MINIMUM_LENGTH: usize = 16;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The master key.
    Master,
    /// A virtual key, by its hash.
    Key(String),
}

struct Row {
    alias: Option<String>,
    name: String,
    user_id: Value,
    models: Value,
    metadata: Value,
    max_budget: Value,
    created: Timestamp,
    expires: Option<Timestamp>,
    spend: f64,
    deleted: Option<Timestamp>,
}

/// All keys that there are and were.
#[derive(Default)]
pub(crate) struct Keys {
    rows: HashMap<String, Row>,
    pub(super) users: HashMap<String, User>,
    /// Users whose calls are to fail, and how many more.
    faults: HashMap<String, (Fault, Option<u32>)>,
}

fn hash(key: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(key))
}

/// A key stands for itself or is given as its hash.
fn hash_if_needed(key: &str) -> String {
    if key.starts_with("sk-") {
        hash(key)
    } else {
        key.to_owned()
    }
}

/// What is shown of a key.
fn name(key: &str) -> String {
    let tail: String = key
        .chars()
        .rev()
        .take(4)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    format!("sk-...{tail}")
}

fn not_found(name: &str, hash: &str) -> Failure {
    Failure::proxy(
        StatusCode::UNAUTHORIZED,
        "token_not_found_in_db",
        format!(
            "Authentication Error, Invalid proxy server token passed. Received API Key = {name}, Key \
             Hash (Token) ={hash}. Unable to find token in cache or `LiteLLM_VerificationTokenTable`"
        ),
    )
    .about("key")
}

fn bad_request(message: impl Into<String>) -> Failure {
    Failure::proxy(StatusCode::BAD_REQUEST, "bad_request_error", message)
}

/// A Python `HTTPException` on its way through the proxy's error handler.
pub(super) fn http_exception(status: StatusCode, error: &str) -> Failure {
    Failure::proxy(
        status,
        "internal_server_error",
        format!("{{'error': '{error}'}}"),
    )
}

impl Keys {
    pub(crate) fn caller(&self, key: &str, now: Timestamp) -> Result<Caller, Failure> {
        if !key.starts_with("sk-") {
            return Err(Failure::unauthorized(&format!(
                "LiteLLM Virtual Key expected. Received={}, expected to start with 'sk-'.",
                masked(key)
            )));
        }
        let hash = hash(key);
        let Some(row) = self.live(&hash) else {
            return Err(not_found(&name(key), &hash));
        };
        match row.expires {
            Some(expires) if expires < now => Err(Failure::proxy(
                StatusCode::UNAUTHORIZED,
                "expired_key",
                format!(
                    "Authentication Error - Expired Key. Key Expiry time {expires} and current \
                     time {now}"
                ),
            )
            .about(&name(key))),
            _ => Ok(Caller::Key(hash)),
        }
    }

    pub(crate) fn generate(&mut self, body: &Value, now: Timestamp) -> Result<Value, Failure> {
        let fields = fields(body)?;
        let text = |field: &str| fields.get(field).and_then(Value::as_str);
        let alias = text("key_alias");
        if let Some(alias) = alias
            && self
                .rows
                .values()
                .any(|row| row.is_live() && row.alias.as_deref() == Some(alias))
        {
            return Err(bad_request(format!(
                "Key with alias '{alias}' already exists. Unique key aliases across all keys are \
                 required."
            ))
            .about("key_alias"));
        }
        let key = text("key").map_or_else(
            || format!("sk-{}", &hash(&now.to_string())[..22]),
            str::to_owned,
        );
        check_key(&key)?;
        let lifetime = text("duration").map(seconds).transpose()?;
        let expires = lifetime.map(|lifetime| now.checked_add(lifetime).unwrap_or(Timestamp::MAX));
        let field = |name: &str, default: Value| {
            fields
                .get(name)
                .filter(|value| !value.is_null())
                .cloned()
                .unwrap_or(default)
        };
        let row = Row {
            alias: alias.map(str::to_owned),
            name: name(&key),
            user_id: field("user_id", Value::Null),
            models: field("models", json!([])),
            metadata: field("metadata", json!({})),
            max_budget: field("max_budget", Value::Null),
            created: now,
            expires,
            spend: 0.0,
            deleted: None,
        };
        let token = hash(&key);
        let mut answer = row.shown();
        answer.extend([
            ("key".to_owned(), json!(key)),
            ("token".to_owned(), json!(token)),
            ("token_id".to_owned(), json!(token)),
            ("duration".to_owned(), field("duration", Value::Null)),
        ]);
        // The real table is upserted with nothing to update: a key that is there stays as it is.
        if self.live(&token).is_none() {
            self.rows.insert(token, row);
        }
        Ok(Value::Object(answer))
    }

    /// A virtual key may ask about itself.
    pub(crate) fn info(
        &self,
        caller: &Caller,
        key: Option<&str>,
        now: Timestamp,
    ) -> Result<Value, Failure> {
        let own = if let Caller::Key(hash) = caller {
            Some(hash.as_str())
        } else {
            None
        };
        let asked = key.or(own).unwrap_or_default();
        let hash = hash_if_needed(asked);
        let Some(row) = self.rows.get(&hash) else {
            return Err(Failure::proxy(
                StatusCode::NOT_FOUND,
                "not_found_error",
                "Key not found in database",
            )
            .about("key"));
        };
        if own.is_some_and(|own| own != hash) {
            return Err(Failure::proxy(
                StatusCode::FORBIDDEN,
                "internal_server_error",
                "You are not allowed to access this key's info. Your role=unknown",
            ));
        }
        let mut info = row.shown();
        info.insert("status".to_owned(), json!(row.status(now)));
        if let Some(deleted) = row.deleted {
            info.insert("deleted_at".to_owned(), json!(deleted));
        }
        Ok(json!({"key": asked, "info": info}))
    }

    pub(crate) fn delete(&mut self, body: &Value, now: Timestamp) -> Result<Value, Failure> {
        let texts = |field: &str| -> Result<Vec<String>, Failure> {
            match body.get(field) {
                None | Some(Value::Null) => Ok(Vec::new()),
                Some(value) => {
                    serde_json::from_value(value.clone()).map_err(|_| Failure::Validation {
                        kind: "list_type",
                        loc: json!(["body", field]),
                        message: "Input should be a valid list",
                    })
                }
            }
        };
        let (keys, aliases) = (texts("keys")?, texts("key_aliases")?);
        let hashes: Vec<String> = if keys.is_empty() {
            let has_alias = |row: &Row| row.alias.as_ref().is_some_and(|a| aliases.contains(a));
            self.rows
                .iter()
                .filter(|(_, row)| has_alias(row))
                .map(|(hash, _)| hash.clone())
                .collect()
        } else {
            keys.iter().map(|key| hash_if_needed(key)).collect()
        };
        let named = if keys.is_empty() { aliases } else { keys };
        if named.is_empty() {
            let kind = "internal_server_error";
            return Err(Failure::proxy(
                StatusCode::INTERNAL_SERVER_ERROR,
                kind,
                "Invalid request type",
            ));
        }
        let mut deleted = 0;
        for hash in hashes {
            if let Some(row) = self.rows.get_mut(&hash).filter(|row| row.is_live()) {
                row.deleted = Some(now);
                deleted += 1;
            }
        }
        if deleted == 0 {
            return Err(http_exception(StatusCode::NOT_FOUND, "No keys found"));
        }
        Ok(json!({"deleted_keys": named}))
    }

    pub(crate) fn spend(&mut self, caller: &Caller, cost: f64) {
        if let Caller::Key(hash) = caller
            && let Some(row) = self.rows.get_mut(hash)
        {
            row.spend += cost;
            let user = row.user_id.as_str().unwrap_or_default();
            if let Some(user) = self.users.get_mut(user) {
                user.spend += cost;
            }
        }
    }

    /// As the real proxy does before it calls a model: a key that has spent its budget is refused, and
    /// so is one whose user has.
    pub(crate) fn within_budget(&self, caller: &Caller) -> Result<(), Failure> {
        let Some(row) = self.row(caller) else {
            return Ok(());
        };
        match row.max_budget.as_f64() {
            Some(most) if row.spend >= most => Err(self.over_budget(caller)),
            _ => self.user_within_budget(caller),
        }
    }

    /// In the words and with the status of the real proxy, whose own default is 422.
    pub(crate) fn over_budget(&self, caller: &Caller) -> Failure {
        let row = self.row(caller);
        let alias = row.and_then(|row| row.alias.as_deref()).unwrap_or("key");
        let name = row.map_or("sk-...", |row| row.name.as_str());
        let spend = row.map_or(0.0, |row| row.spend);
        let most = row.and_then(|row| row.max_budget.as_f64()).unwrap_or(spend);
        Failure::proxy(
            StatusCode::UNPROCESSABLE_ENTITY,
            "budget_exceeded",
            format!(
                "Budget has been exceeded! Key={alias} ({name}) Current cost: {spend:?}, Max budget: \
                 {most:?}"
            ),
        )
    }

    /// As if there were no such key.
    pub(crate) fn unknown(&self, caller: &Caller) -> Failure {
        let (hash, name) = match caller {
            Caller::Key(hash) => (
                hash.as_str(),
                self.row(caller).map_or("sk-...", |row| row.name.as_str()),
            ),
            Caller::Master => ("", "sk-..."),
        };
        not_found(name, hash)
    }

    /// Makes a user's calls fail, or lets them go.
    pub(crate) fn tell(&mut self, user: String, fault: Option<Fault>, times: Option<u32>) {
        match fault {
            Some(fault) => self.faults.insert(user, (fault, times)),
            None => self.faults.remove(&user),
        };
    }

    /// How this call is to fail; it counts as one.
    pub(crate) fn fault(&mut self, caller: &Caller) -> Option<Fault> {
        let user = self.user_of(caller)?.to_owned();
        let (fault, times) = self.faults.get_mut(&user)?;
        let fault = *fault;
        if let Some(left) = times {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.faults.remove(&user);
            }
        }
        Some(fault)
    }

    /// What is shown of a user's keys.
    pub(super) fn keys_of(&self, user: &str) -> Vec<Value> {
        let of_user = |row: &&Row| row.is_live() && row.user_id == user;
        let shown = self.rows.values().filter(of_user);
        shown.map(|row| Value::Object(row.shown())).collect()
    }

    /// As if they had never been.
    pub(super) fn forget_keys_of(&mut self, user: &str) {
        self.rows.retain(|_, row| row.user_id != user);
    }

    pub(super) fn user_of(&self, caller: &Caller) -> Option<&str> {
        self.row(caller)?.user_id.as_str()
    }

    fn row(&self, caller: &Caller) -> Option<&Row> {
        match caller {
            Caller::Key(hash) => self.live(hash),
            Caller::Master => None,
        }
    }

    fn live(&self, hash: &str) -> Option<&Row> {
        self.rows.get(hash).filter(|row| row.is_live())
    }
}

impl Row {
    fn is_live(&self) -> bool {
        self.deleted.is_none()
    }

    fn status(&self, now: Timestamp) -> &'static str {
        match self.expires {
            _ if self.deleted.is_some() => "deleted",
            Some(expires) if expires < now => "expired",
            _ => "active",
        }
    }

    fn shown(&self) -> Map<String, Value> {
        let shown = json!({
            "key_name": self.name,
            "key_alias": self.alias,
            "user_id": self.user_id,
            "models": self.models,
            "metadata": self.metadata,
            "max_budget": self.max_budget,
            "spend": self.spend,
            "blocked": null,
            "created_at": self.created,
            "expires": self.expires,
        });
        if let Value::Object(shown) = shown {
            shown
        } else {
            Map::new()
        }
    }
}

type Check = fn(&Value) -> bool;

pub(super) fn bad_type(kind: &'static str, loc: Value, message: &'static str) -> Failure {
    Failure::Validation { kind, loc, message }
}

/// A text in place of a number might have been one.
fn parsed(kind: &'static str, value: &Value) -> &'static str {
    match kind {
        "float_type" if value.is_string() => "float_parsing",
        "int_type" if value.is_string() => "int_parsing",
        "int_type" if value.is_f64() => "int_from_float",
        "bool_type" if value.is_string() => "bool_parsing",
        _ => kind,
    }
}

fn is_role(value: &Value) -> bool {
    let roles = [
        "proxy_admin",
        "proxy_admin_viewer",
        "internal_user",
        "internal_user_viewer",
    ];
    value.as_str().is_some_and(|role| roles.contains(&role))
}

/// What pydantic would refuse; fields that aren't named here may be anything.
pub(super) fn fields(body: &Value) -> Result<&Map<String, Value>, Failure> {
    let Some(fields) = body.as_object() else {
        return Err(Failure::Validation {
            kind: "model_attributes_type",
            loc: json!(["body"]),
            message: "Input should be a valid dictionary or object to extract fields from",
        });
    };
    let text = ("string_type", "Input should be a valid string");
    let list = ("list_type", "Input should be a valid list");
    let dictionary = ("dict_type", "Input should be a valid dictionary");
    let number = ("float_type", "Input should be a valid number");
    let integer = ("int_type", "Input should be a valid integer");
    let boolean = ("bool_type", "Input should be a valid boolean");
    let role = ("literal_error", "Input should be a role");
    let checks: [(&str, Check, (&'static str, &'static str)); 13] = [
        ("key", Value::is_string, text),
        ("key_alias", Value::is_string, text),
        ("duration", Value::is_string, text),
        ("user_id", Value::is_string, text),
        ("metadata", Value::is_object, dictionary),
        ("models", Value::is_array, list),
        ("allowed_routes", Value::is_array, list),
        ("max_budget", Value::is_number, number),
        ("budget_duration", Value::is_string, text),
        ("tpm_limit", Value::is_i64, integer),
        ("rpm_limit", Value::is_i64, integer),
        ("auto_create_key", Value::is_boolean, boolean),
        ("user_role", is_role, role),
    ];
    for (field, is_valid, (kind, message)) in checks {
        let value = fields.get(field);
        if let Some(value) = value.filter(|value| !value.is_null() && !is_valid(value)) {
            let loc = json!(["body", field]);
            return Err(bad_type(parsed(kind, value), loc, message));
        }
    }
    Ok(fields)
}

fn check_key(key: &str) -> Result<(), Failure> {
    if !key.starts_with("sk-") {
        let error = format!(
            "Invalid key format. LiteLLM Virtual Key must start with \\'sk-\\'. Received: {}",
            masked(key)
        );
        return Err(http_exception(StatusCode::BAD_REQUEST, &error));
    }
    if key.len() < MINIMUM_LENGTH {
        let error = format!(
            "Invalid key format. LiteLLM Virtual Key must be at least {MINIMUM_LENGTH} characters \
             long."
        );
        return Err(http_exception(StatusCode::BAD_REQUEST, &error));
    }
    Ok(())
}

fn masked(key: &str) -> String {
    let characters: Vec<char> = key.chars().collect();
    match characters.as_slice() {
        [first @ .., a, b, c, d] if characters.len() > 8 => {
            let head: String = first.iter().take(4).collect();
            format!("{head}****{a}{b}{c}{d}")
        }
        _ => "****".to_owned(),
    }
}

/// `30s`, `30m`, `30h`, `30d`, `30w`. The real one knows `mo` as well, whose length depends on the
/// day; it is not used here and refused like any other unit.
pub(super) fn seconds(duration: &str) -> Result<SignedDuration, Failure> {
    let digits = duration.len()
        - duration
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .len();
    let (number, unit) = duration.split_at(digits);
    let unit = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        "w" => Some(604_800),
        _ => None,
    };
    let seconds = unit.and_then(|unit: i64| unit.checked_mul(number.parse().ok()?));
    seconds.map(SignedDuration::from_secs).ok_or_else(|| {
        Failure::proxy(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_server_error",
            format!("Invalid duration format: {duration}"),
        )
    })
}
