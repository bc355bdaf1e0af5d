//! Stand-ins: programs that take the place of parts that can't run on one machine, or would take too
//! long to, so that everything around them can be run for real.
//!
//! - [`scripted_agent`] stands in for OpenClaw: it takes the configuration that `agentd` renders,
//!   speaks the gateway's protocol, and has its turns answered by the model it is pointed at. What
//!   the original refuses, it refuses.
//! - [`model_gateway`] stands in for LiteLLM, whose virtual keys need a database engine that can't
//!   be had everywhere. It is checked against the API description of the real one, in
//!   `tests/litellm_contract.rs`.
//! - [`bedrock`] stands in for the model itself, behind the real LiteLLM: it speaks Bedrock's Converse
//!   API, event stream included, and follows the script that [`model_gateway`] follows, too.
//! - [`slack`] stands in for Slack: the methods of its Web API that are used here, as strict as the
//!   original or stricter, and a page that shows the threads. It is checked against Slack's own SDK,
//!   in `tests/slack_contract.rs`.
//! - [`oidc`] stands in for another organisation's identity provider, through which people sign in. It
//!   is run by the scenario that needs one.
//! - `pause` is the process that holds a pod's namespaces.
//!
//! They are libraries too, so that other crates' tests can run them in process.

pub mod bedrock;
mod model;
pub mod model_gateway;
pub mod oidc;
pub mod probe;
pub mod scripted_agent;
pub mod slack;
