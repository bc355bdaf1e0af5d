//! Users, whose keys share a budget. Limits of rates are kept and told, but not enforced.

use std::collections::hash_map::Entry;

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Failure;
use super::keys::{Caller, Keys, bad_type, fields, http_exception, seconds};

/// What may be said of a user, and changed.
const SETTLED: [&str; 6] = [
    "user_role",
    "max_budget",
    "budget_duration",
    "tpm_limit",
    "rpm_limit",
    "metadata",
];

/// A row of the real table, as far as it is used here.
pub(super) struct User {
    settled: Map<String, Value>,
    pub(super) spend: f64,
    created: Timestamp,
    updated: Timestamp,
}

impl User {
    fn new(fields: &Map<String, Value>, now: Timestamp) -> Result<Self, Failure> {
        let mut user = Self {
            settled: SETTLED
                .map(|name| (name.to_owned(), Value::Null))
                .into_iter()
                .collect(),
            spend: 0.0,
            created: now,
            updated: now,
        };
        user.settled.insert("metadata".to_owned(), json!({}));
        user.change(fields, now)?;
        Ok(user)
    }

    /// As the real one does: a limit that is sent as null is lifted, and what else is null stays.
    fn change(&mut self, fields: &Map<String, Value>, now: Timestamp) -> Result<(), Failure> {
        if let Some(duration) = fields.get("budget_duration").and_then(Value::as_str)
            && !seconds(duration).is_ok_and(|time| time.is_positive())
        {
            let error = format!("Invalid budget_duration \'{duration}\'");
            return Err(http_exception(StatusCode::BAD_REQUEST, &error));
        }
        for name in SETTLED {
            let keeps_null = !matches!(name, "user_role" | "metadata");
            if let Some(value) = fields.get(name)
                && (keeps_null || !value.is_null())
            {
                self.settled.insert(name.to_owned(), value.clone());
            }
        }
        self.updated = now;
        Ok(())
    }

    fn max_budget(&self) -> Option<f64> {
        self.settled.get("max_budget").and_then(Value::as_f64)
    }

    fn shown(&self, id: &str) -> Map<String, Value> {
        let mut shown = self.settled.clone();
        shown.extend([
            ("user_id".to_owned(), json!(id)),
            ("spend".to_owned(), json!(self.spend)),
            ("models".to_owned(), json!([])),
            ("teams".to_owned(), json!([])),
            ("created_at".to_owned(), json!(self.created)),
            ("updated_at".to_owned(), json!(self.updated)),
        ]);
        shown
    }
}

impl Keys {
    pub(crate) fn new_user(&mut self, body: &Value, now: Timestamp) -> Result<Value, Failure> {
        let fields = fields(body)?;
        let given = fields.get("user_id").and_then(Value::as_str);
        // The real one makes a UUID.
        let id = given.map_or_else(|| format!("user-{}", self.users.len()), str::to_owned);
        let user = User::new(fields, now)?;
        let mut answer = user.shown(&id);
        match self.users.entry(id.clone()) {
            Entry::Occupied(_) => {
                let error = format!("User with id {id} already exists");
                return Err(http_exception(StatusCode::CONFLICT, &error));
            }
            Entry::Vacant(place) => place.insert(user),
        };
        let key = match fields.get("auto_create_key") {
            Some(Value::Bool(false)) => json!(""),
            _ => self.generate(&json!({ "user_id": id }), now)?["key"].take(),
        };
        answer.insert("key".to_owned(), key);
        Ok(Value::Object(answer))
    }

    /// Who isn't there is made, as the real one does for its master key.
    pub(crate) fn update_user(&mut self, body: &Value, now: Timestamp) -> Result<Value, Failure> {
        let fields = fields(body)?;
        let Some(id) = fields.get("user_id").and_then(Value::as_str) else {
            return Err(Failure::Validation {
                kind: "value_error",
                loc: json!(["body"]),
                message: "Value error, Either user id or user email must be provided",
            });
        };
        match self.users.entry(id.to_owned()) {
            Entry::Occupied(mut there) => there.get_mut().change(fields, now)?,
            Entry::Vacant(place) => {
                place.insert(User::new(fields, now)?);
            }
        }
        let row = self.users.get(id).map(|user| user.shown(id));
        Ok(json!({ "user_id": id, "data": row }))
    }

    /// The row alone.
    pub(crate) fn user(&self, caller: &Caller, id: &str) -> Result<Value, Failure> {
        let (id, user) = self.told(caller, id)?;
        user.map(|user| Value::Object(user.shown(id)))
            .ok_or_else(|| no_user(&format!("User not found: {id}")))
    }

    /// The row, and all keys of that user that are not deleted.
    pub(crate) fn user_and_keys(&self, caller: &Caller, id: &str) -> Result<Value, Failure> {
        let (id, user) = self.told(caller, id)?;
        let user = user.ok_or_else(|| no_user(&format!("User {id} not found")))?;
        Ok(json!({
            "user_id": id,
            "user_info": user.shown(id),
            "keys": self.keys_of(id),
            "teams": [],
        }))
    }

    /// A virtual key may ask about its own user, unless its routes are limited to others.
    fn told<'a>(
        &'a self,
        caller: &Caller,
        id: &'a str,
    ) -> Result<(&'a str, Option<&'a User>), Failure> {
        if let Caller::Key(_) = caller
            && self.user_of(caller) != Some(id)
        {
            let message = "key not allowed to access this user's info.";
            let kind = "internal_server_error";
            return Err(Failure::proxy(StatusCode::FORBIDDEN, kind, message));
        }
        Ok((id, self.users.get(id)))
    }

    /// With their keys, which nothing is remembered of. All or none.
    pub(crate) fn delete_users(&mut self, body: &Value) -> Result<Value, Failure> {
        let Some(ids) = body.get("user_ids") else {
            return Err(bad_type(
                "missing",
                json!(["body", "user_ids"]),
                "Field required",
            ));
        };
        let Some(ids) = ids.as_array() else {
            let message = "Input should be a valid list";
            return Err(bad_type("list_type", json!(["body", "user_ids"]), message));
        };
        let mut named = Vec::new();
        for (index, id) in ids.iter().enumerate() {
            let Some(id) = id.as_str() else {
                let loc = json!(["body", "user_ids", index]);
                return Err(bad_type(
                    "string_type",
                    loc,
                    "Input should be a valid string",
                ));
            };
            named.push(id);
        }
        for id in &named {
            if !self.users.contains_key(*id) {
                return Err(Failure::Detail {
                    status: StatusCode::NOT_FOUND,
                    error: format!("User not found, passed user_id={id}"),
                });
            }
        }
        let mut deleted = 0;
        for id in named {
            self.forget_keys_of(id);
            deleted += usize::from(self.users.remove(id).is_some());
        }
        Ok(json!(deleted))
    }

    /// All keys of a user together may spend no more than the user may.
    pub(super) fn user_within_budget(&self, caller: &Caller) -> Result<(), Failure> {
        let Some(id) = self.user_of(caller) else {
            return Ok(());
        };
        let user = self.users.get(id);
        match user.map(|user| (user.spend, user.max_budget())) {
            Some((spend, Some(most))) if spend >= most => Err(Failure::proxy(
                StatusCode::UNPROCESSABLE_ENTITY,
                "budget_exceeded",
                format!("ExceededBudget: User={id} over budget. Spend={spend:?}, Budget={most:?}"),
            )),
            _ => Ok(()),
        }
    }
}

fn no_user(message: &str) -> Failure {
    Failure::proxy(StatusCode::NOT_FOUND, "internal_server_error", message)
}
