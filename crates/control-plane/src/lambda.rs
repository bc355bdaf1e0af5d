//! What makes a program a Lambda function: its log and its errors.

use carapace_core::quoted;
use lambda_runtime::Diagnostic;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tracing_subscriber::EnvFilter;

/// Starts logging: one JSON object per line on standard output, as CloudWatch reads it. `RUST_LOG`
/// sets what is logged; `info` of everything if it doesn't.
pub fn start_logging() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(true)
        .with_env_filter(filter)
        .with_writer(std::io::stdout)
        .init();
}

/// An error whose name a state machine matches in `Retry` and `Catch`. The name is part of the
/// function's interface: renaming a variant is a change of every state machine that invokes it.
pub trait Named: std::error::Error {
    /// The names of all errors of this type.
    const NAMES: &'static [&'static str];

    /// The name of this one.
    fn name(&self) -> &'static str;
}

/// Gives an error enum the names of its variants, and makes it what the runtime reports. A variant
/// that is left out here does not compile.
#[macro_export]
macro_rules! named {
    ($error:ident: $($variant:ident),+ $(,)?) => {
        impl $crate::lambda::Named for $error {
            const NAMES: &'static [&'static str] = &[$(stringify!($variant)),+];

            fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => stringify!($variant),)+
                }
            }
        }

        impl From<$error> for ::lambda_runtime::Diagnostic {
            fn from(error: $error) -> Self {
                $crate::lambda::diagnostic(&error)
            }
        }
    };
}

/// Makes what goes wrong at a port the error of the step that asked: its variant `Unavailable` or
/// `Refused`, in the same words.
#[macro_export]
macro_rules! from_trouble {
    ($error:ident) => {
        impl From<::carapace_core::ports::Trouble> for $error {
            fn from(trouble: ::carapace_core::ports::Trouble) -> Self {
                use ::carapace_core::ports::Trouble;
                match trouble {
                    Trouble::Unavailable { .. } => Self::Unavailable(trouble.to_string()),
                    Trouble::Refused { .. } => Self::Refused(trouble.to_string()),
                }
            }
        }
    };
}

/// Logs an error and turns it into what Step Functions sees: its name as `Error`, its text in
/// `Cause`.
pub fn diagnostic<E: Named>(error: &E) -> Diagnostic {
    tracing::warn!(error = error.name(), message = %error, "the function answers with an error");
    Diagnostic {
        error_type: error.name().to_owned(),
        error_message: error.to_string(),
    }
}

/// The error of a payload that is not what a function takes; every function can raise it.
pub const INPUT_REJECTED: &str = "InputRejected";

/// Reads a payload. What is wrong with it is a fault of the state machine, so it has a name of its
/// own: nothing that was put on the bus can cause it.
pub fn read_payload<T: DeserializeOwned>(payload: Value) -> Result<T, Diagnostic> {
    serde_json::from_value(payload).map_err(|error| {
        let message = format!("the state machine sent what this function does not take: {error}");
        tracing::error!(
            error = INPUT_REJECTED,
            message,
            "the function answers with an error"
        );
        Diagnostic {
            error_type: INPUT_REJECTED.to_owned(),
            error_message: message,
        }
    })
}

/// Writes an answer. Nothing that is answered can fail to be written.
pub fn write_answer(answer: &impl Serialize) -> Result<Value, Diagnostic> {
    serde_json::to_value(answer).map_err(|error| Diagnostic {
        error_type: "AnswerUnwritable".to_owned(),
        error_message: quoted(&error.to_string()),
    })
}
