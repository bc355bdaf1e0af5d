//! From JSON to a [`Machine`], with everything that is wrong with a single field.

use std::collections::{BTreeMap, BTreeSet};

use crate::expression::{self, References};
use crate::finding::Finding;
use crate::json::{Json, Member, Node};
use crate::machine::{Branch, Catcher, Kind, Machine, Retrier, Route, State, Substitution};

/// What reading leaves behind beside the machine: what is wrong, and the variables that are read.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) findings: Vec<Finding>,
    pub(crate) uses: Vec<Use>,
}

/// A place that reads a variable.
#[derive(Debug)]
pub(crate) struct Use {
    pub(crate) state: String,
    pub(crate) variable: String,
    pub(crate) line: usize,
    pub(crate) path: String,
}

/// Names that begin with `States.` and mean something; any other is a slip.
/// Source: the Amazon States Language, "Errors", and the Step Functions developer guide.
const RESERVED_ERRORS: &[&str] = &[
    "States.ALL",
    "States.BranchFailed",
    "States.DataLimitExceeded",
    "States.ExceedToleratedFailureThreshold",
    "States.HeartbeatTimeout",
    "States.Http.Socket",
    "States.ItemReaderFailed",
    "States.NoChoiceMatched",
    "States.Permissions",
    "States.QueryEvaluationError",
    "States.ResultWriterFailed",
    "States.Runtime",
    "States.TaskFailed",
    "States.Timeout",
];

/// Fields that belong to JSONPath, and what takes their place.
const JSON_PATH_FIELDS: &[(&str, &str)] = &[
    ("CausePath", "Cause"),
    ("ErrorPath", "Error"),
    ("HeartbeatSecondsPath", "HeartbeatSeconds"),
    ("InputPath", "Arguments or Output"),
    ("ItemsPath", "Items"),
    ("MaxConcurrencyPath", "MaxConcurrency"),
    ("OutputPath", "Output"),
    ("Parameters", "Arguments"),
    ("Result", "Output"),
    ("ResultPath", "Output or Assign"),
    ("ResultSelector", "Output"),
    ("SecondsPath", "Seconds"),
    ("TimeoutSecondsPath", "TimeoutSeconds"),
    ("TimestampPath", "Timestamp"),
    ("Variable", "Condition"),
];

const TASK: &[&str] = &[
    "Arguments",
    "Credentials",
    "HeartbeatSeconds",
    "Resource",
    "TimeoutSeconds",
];
const CHOICE: &[&str] = &["Choices", "Default"];
const WAIT: &[&str] = &["Seconds", "Timestamp"];
const FAIL: &[&str] = &["Cause", "Error"];
const PARALLEL: &[&str] = &["Arguments", "Branches"];
const MAP: &[&str] = &[
    "ItemBatcher",
    "ItemProcessor",
    "ItemReader",
    "ItemSelector",
    "Items",
    "Label",
    "MaxConcurrency",
    "ResultWriter",
    "ToleratedFailureCount",
    "ToleratedFailurePercentage",
];

const RETRIER: &[&str] = &[
    "BackoffRate",
    "Comment",
    "ErrorEquals",
    "IntervalSeconds",
    "JitterStrategy",
    "MaxAttempts",
    "MaxDelaySeconds",
];

/// What an expression may read of `$states` depends on when it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Before the state's work.
    Before,
    /// After work that went well.
    After,
    /// After work that failed, in a `Catch`.
    Caught,
}

/// Reads a machine. It is complete only if there are no findings.
pub(crate) fn machine(name: &str, source: &str, root: &Node, notes: &mut Notes) -> Option<Machine> {
    let mut reader = Reader {
        notes,
        state: String::new(),
        result: false,
    };
    let members = reader.object(root, "")?;
    let fields = Fields {
        line: root.line,
        path: "",
        members,
    };
    reader.known(
        &fields,
        &[
            "Comment",
            "QueryLanguage",
            "StartAt",
            "States",
            "TimeoutSeconds",
            "Version",
        ],
        &[],
    );
    if fields
        .get("QueryLanguage")
        .and_then(|member| member.node.as_text())
        != Some("JSONata")
    {
        let line = fields
            .get("QueryLanguage")
            .map_or(root.line, |member| member.line);
        reader.note(
            line,
            "QueryLanguage",
            "has to be \"JSONata\", for the whole machine".to_owned(),
        );
    }
    let comment = reader.comment(&fields, "the machine");
    let timeout_seconds = fields
        .get("TimeoutSeconds")
        .and_then(|member| reader.whole(member, "TimeoutSeconds", 1));
    if fields.get("TimeoutSeconds").is_none() {
        let message = "missing: without it an execution may wait for a year".to_owned();
        reader.note(root.line, "TimeoutSeconds", message);
    }
    let branch = reader.branch(&fields);
    let substitutions = reader.substitutions(source);
    Some(Machine {
        name: name.to_owned(),
        comment,
        timeout_seconds: timeout_seconds.unwrap_or_default(),
        substitutions,
        root: branch,
    })
}

/// An object's members and where the object is.
struct Fields<'a> {
    line: usize,
    path: &'a str,
    members: &'a [Member],
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Member> {
        self.members.iter().find(|member| member.name == name)
    }

    fn at(&self, name: &str) -> String {
        join(self.path, name)
    }
}

struct Reader<'a> {
    notes: &'a mut Notes,
    /// The state that is being read.
    state: String,
    /// Whether that state has a result, which `Output` and `Assign` may read.
    result: bool,
}

impl Reader<'_> {
    fn note(&mut self, line: usize, path: &str, message: String) {
        self.notes.findings.push(Finding {
            line,
            path: path.to_owned(),
            message,
        });
    }

    fn object<'n>(&mut self, node: &'n Node, path: &str) -> Option<&'n [Member]> {
        let members = node.as_object();
        if members.is_none() {
            self.note(
                node.line,
                path,
                format!("has to be an object, not {}", node.describe()),
            );
        }
        members
    }

    fn array<'n>(&mut self, member: &'n Member, path: &str) -> &'n [Node] {
        let items = member.node.as_array().unwrap_or_default();
        if items.is_empty() {
            self.note(
                member.line,
                path,
                "has to be an array with at least one element".to_owned(),
            );
        }
        items
    }

    /// Notes fields that do not belong here, and those that are there twice.
    fn known(&mut self, fields: &Fields<'_>, common: &[&str], own: &[&str]) {
        let mut seen = BTreeSet::new();
        for Member { line, name, .. } in fields.members {
            let path = fields.at(name);
            if !seen.insert(name) {
                self.note(
                    *line,
                    &path,
                    "is there twice; the last one would win".to_owned(),
                );
            }
            if common.contains(&name.as_str()) || own.contains(&name.as_str()) {
                continue;
            }
            let json_path = JSON_PATH_FIELDS.iter().find(|(field, _)| field == name);
            let message = match json_path {
                Some((_, instead)) => format!("belongs to JSONPath; in JSONata use {instead}"),
                None if name.ends_with(".$") => {
                    "a name that ends in .$ belongs to JSONPath".to_owned()
                }
                None => "unknown field".to_owned(),
            };
            self.note(*line, &path, message);
        }
    }

    fn comment(&mut self, fields: &Fields<'_>, of: &str) -> String {
        let comment = fields
            .get("Comment")
            .and_then(|member| member.node.as_text())
            .unwrap_or_default();
        if comment.trim().is_empty() {
            self.note(
                fields.line,
                &fields.at("Comment"),
                format!("missing: say why {of} exists"),
            );
        }
        comment.to_owned()
    }

    fn whole(&mut self, member: &Member, path: &str, least: u64) -> Option<u64> {
        let number = match &member.node.value {
            Json::Number(number) => number.as_u64().filter(|number| *number >= least),
            _ => None,
        };
        if number.is_none() {
            let found = member.node.describe();
            self.note(
                member.line,
                path,
                format!("has to be a whole number of at least {least}, not {found}"),
            );
        }
        number
    }

    /// A whole number, or an expression that gives one.
    fn seconds(&mut self, fields: &Fields<'_>, name: &str, least: u64) {
        let Some(member) = fields.get(name) else {
            return;
        };
        let path = fields.at(name);
        if member.node.as_text().is_some_and(is_expression) {
            self.value(&member.node, &path, Moment::Before);
        } else {
            self.whole(member, &path, least);
        }
    }

    fn text(&mut self, fields: &Fields<'_>, name: &str) -> Option<String> {
        let path = fields.at(name);
        let Some(member) = fields.get(name) else {
            self.note(fields.line, &path, "missing".to_owned());
            return None;
        };
        let text = member
            .node
            .as_text()
            .filter(|text| !text.is_empty())
            .map(str::to_owned);
        if text.is_none() {
            let found = member.node.describe();
            self.note(member.line, &path, format!("has to be a text, not {found}"));
        }
        text
    }

    /// `StartAt` and `States` of a machine, a branch or an item processor.
    fn branch(&mut self, fields: &Fields<'_>) -> Branch {
        let start_at = self.text(fields, "StartAt").unwrap_or_default();
        let path = fields.at("States");
        let mut states = Vec::new();
        let Some(member) = fields.get("States") else {
            self.note(fields.line, &path, "missing".to_owned());
            return Branch { start_at, states };
        };
        let members = self.object(&member.node, &path).unwrap_or_default();
        if members.is_empty() {
            self.note(
                member.line,
                &path,
                "has to have at least one state".to_owned(),
            );
        }
        for member in members {
            if states.iter().any(|state: &State| state.name == member.name) {
                self.note(
                    member.line,
                    &join(&path, &member.name),
                    "is there twice".to_owned(),
                );
                continue;
            }
            states.extend(self.state(member, &path));
        }
        Branch { start_at, states }
    }

    fn state(&mut self, member: &Member, parent: &str) -> Option<State> {
        let path = join(parent, &member.name);
        let members = self.object(&member.node, &path)?;
        let fields = Fields {
            line: member.line,
            path: &path,
            members,
        };
        if !is_verb_noun(&member.name) {
            let message =
                "a state is named VerbNoun, for example ClaimSandbox, in at most 80 characters";
            self.note(member.line, &path, message.to_owned());
        }
        let comment = self.comment(&fields, "the state");
        let type_name = self.text(&fields, "Type")?;
        // `Output` and `Assign` of a Map or Parallel are read after its inner states, so restore these.
        let outer = (
            std::mem::replace(&mut self.state, member.name.clone()),
            self.result,
        );
        self.result = matches!(type_name.as_str(), "Task" | "Map" | "Parallel");
        let state = self
            .state_of_type(&type_name, &fields)
            .map(|(kind, routes)| State {
                name: member.name.clone(),
                comment,
                line: member.line,
                kind,
                routes,
                retry: self.retriers(&fields),
                catch: self.catchers(&fields),
                assign: self.assignments(&fields, Moment::After),
            });
        (self.state, self.result) = outer;
        state
    }

    fn state_of_type(
        &mut self,
        type_name: &str,
        fields: &Fields<'_>,
    ) -> Option<(Kind, Vec<Route>)> {
        const COMMON: &[&str] = &["Comment", "QueryLanguage", "Type"];
        const OUT: &[&str] = &["Assign", "Comment", "Output", "QueryLanguage", "Type"];
        const ON: &[&str] = &[
            "Assign",
            "Comment",
            "End",
            "Next",
            "Output",
            "QueryLanguage",
            "Type",
        ];
        const WORK: &[&str] = &[
            "Assign",
            "Catch",
            "Comment",
            "End",
            "Next",
            "Output",
            "QueryLanguage",
            "Retry",
            "Type",
        ];

        let (common, own) = match type_name {
            "Task" => (WORK, TASK),
            "Map" => (WORK, MAP),
            "Parallel" => (WORK, PARALLEL),
            "Pass" => (ON, &[][..]),
            "Wait" => (ON, WAIT),
            "Choice" => (OUT, CHOICE),
            "Succeed" => (&["Comment", "Output", "QueryLanguage", "Type"][..], &[][..]),
            "Fail" => (COMMON, FAIL),
            other => {
                let line = fields.get("Type").map_or(fields.line, |member| member.line);
                let message = format!(
                    "{other:?} is no type of state; there are Choice, Fail, Map, Parallel, Pass, Succeed, \
                     Task and Wait"
                );
                self.note(line, &fields.at("Type"), message);
                return None;
            }
        };
        self.known(fields, common, own);
        if let Some(member) = fields.get("QueryLanguage")
            && member.node.as_text() != Some("JSONata")
        {
            self.note(
                member.line,
                &fields.at("QueryLanguage"),
                "has to be \"JSONata\"".to_owned(),
            );
        }
        if let Some(member) = fields.get("Output") {
            self.value(&member.node, &fields.at("Output"), Moment::After);
        }
        for name in [
            "Arguments",
            "Credentials",
            "Cause",
            "Error",
            "ItemSelector",
            "Items",
            "Timestamp",
        ] {
            if let Some(member) = fields.get(name).filter(|_| own.contains(&name)) {
                self.value(&member.node, &fields.at(name), Moment::Before);
            }
        }
        let kind = self.kind(type_name, fields);
        let routes = match type_name {
            "Choice" => self.choices(fields),
            "Succeed" | "Fail" => Vec::new(),
            _ => self.next(fields),
        };
        Some((kind, routes))
    }

    fn kind(&mut self, type_name: &str, fields: &Fields<'_>) -> Kind {
        match type_name {
            "Choice" => Kind::Choice,
            "Pass" => Kind::Pass,
            "Succeed" => Kind::Succeed,
            "Fail" => Kind::Fail,
            "Task" => self.task(fields),
            "Map" => self.map(fields),
            "Parallel" => self.parallel(fields),
            _ => {
                self.seconds(fields, "Seconds", 0);
                if fields.get("Seconds").is_some() == fields.get("Timestamp").is_some() {
                    let message = "a Wait has either Seconds or Timestamp".to_owned();
                    self.note(fields.line, fields.path, message);
                }
                Kind::Wait
            }
        }
    }

    fn task(&mut self, fields: &Fields<'_>) -> Kind {
        let resource = self.text(fields, "Resource").unwrap_or_default();
        if !(resource.is_empty() || resource.starts_with("arn:") || resource.starts_with("${")) {
            let line = fields
                .get("Resource")
                .map_or(fields.line, |member| member.line);
            self.note(
                line,
                &fields.at("Resource"),
                format!("{resource:?} is no ARN"),
            );
        }
        if fields.get("TimeoutSeconds").is_none() {
            let message = "missing: a call that never answers would hold the execution".to_owned();
            self.note(fields.line, &fields.at("TimeoutSeconds"), message);
        }
        self.seconds(fields, "TimeoutSeconds", 1);
        self.seconds(fields, "HeartbeatSeconds", 1);
        Kind::Task { resource }
    }

    fn map(&mut self, fields: &Fields<'_>) -> Kind {
        self.seconds(fields, "MaxConcurrency", 0);
        let path = fields.at("ItemProcessor");
        let processor = fields.get("ItemProcessor");
        let members = processor.and_then(|member| self.object(&member.node, &path));
        let Some((processor, members)) = processor.zip(members) else {
            self.note(fields.line, &path, "a Map needs one".to_owned());
            return Kind::Map(Branch {
                start_at: String::new(),
                states: Vec::new(),
            });
        };
        let inner = Fields {
            line: processor.line,
            path: &path,
            members,
        };
        self.known(
            &inner,
            &["Comment", "ProcessorConfig", "StartAt", "States"],
            &[],
        );
        Kind::Map(self.branch(&inner))
    }

    fn parallel(&mut self, fields: &Fields<'_>) -> Kind {
        let path = fields.at("Branches");
        let Some(member) = fields.get("Branches") else {
            self.note(
                fields.line,
                &path,
                "a Parallel needs at least one".to_owned(),
            );
            return Kind::Parallel(Vec::new());
        };
        let mut branches = Vec::new();
        for (index, node) in self.array(member, &path).iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Some(members) = self.object(node, &path) else {
                continue;
            };
            let inner = Fields {
                line: node.line,
                path: &path,
                members,
            };
            self.known(&inner, &["Comment", "StartAt", "States"], &[]);
            branches.push(self.branch(&inner));
        }
        Kind::Parallel(branches)
    }

    /// `Next` or `End` of a state that has just one way on.
    fn next(&mut self, fields: &Fields<'_>) -> Vec<Route> {
        let end = match fields.get("End") {
            None => false,
            Some(member) => {
                let is_true = matches!(member.node.value, Json::Bool(true));
                if !is_true {
                    self.note(
                        member.line,
                        &fields.at("End"),
                        "can only be true".to_owned(),
                    );
                }
                true
            }
        };
        let to = match (fields.get("Next"), end) {
            (Some(_), false) => self.text(fields, "Next"),
            (None, true) => None,
            (Some(_), true) => {
                self.note(fields.line, fields.path, "has both Next and End".to_owned());
                None
            }
            (None, false) => {
                self.note(
                    fields.line,
                    fields.path,
                    "has neither Next nor End".to_owned(),
                );
                None
            }
        };
        vec![Route {
            to,
            condition: None,
            assigns: BTreeSet::new(),
        }]
    }

    fn choices(&mut self, fields: &Fields<'_>) -> Vec<Route> {
        let path = fields.at("Choices");
        let mut routes = Vec::new();
        match fields.get("Choices") {
            None => self.note(fields.line, &path, "missing".to_owned()),
            Some(member) => {
                for (index, node) in self.array(member, &path).iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    let Some(members) = self.object(node, &path) else {
                        continue;
                    };
                    let rule = Fields {
                        line: node.line,
                        path: &path,
                        members,
                    };
                    routes.push(self.choice(&rule));
                }
            }
        }
        if fields.get("Default").is_some() {
            let to = self.text(fields, "Default");
            routes.push(Route {
                to,
                condition: None,
                assigns: BTreeSet::new(),
            });
        } else {
            let message =
                "missing: an input that no rule matches would fail as States.NoChoiceMatched";
            self.note(fields.line, &fields.at("Default"), message.to_owned());
        }
        routes
    }

    fn choice(&mut self, rule: &Fields<'_>) -> Route {
        self.known(
            rule,
            &["Assign", "Comment", "Condition", "Next", "Output"],
            &[],
        );
        let condition = self.text(rule, "Condition").unwrap_or_default();
        if let Some(member) = rule.get("Condition") {
            let path = rule.at("Condition");
            if !condition.is_empty() && !is_expression(&condition) {
                self.note(
                    member.line,
                    &path,
                    "has to be an expression {% … %}".to_owned(),
                );
            }
            self.value(&member.node, &path, Moment::Before);
        }
        if let Some(member) = rule.get("Output") {
            self.value(&member.node, &rule.at("Output"), Moment::Before);
        }
        let comment = rule.get("Comment").and_then(|member| member.node.as_text());
        let words = comment.unwrap_or_else(|| inner(&condition).unwrap_or_default().trim());
        Route {
            to: self.text(rule, "Next"),
            condition: Some(words.to_owned()),
            assigns: self.assignments(rule, Moment::Before).into_keys().collect(),
        }
    }

    fn retriers(&mut self, fields: &Fields<'_>) -> Vec<Retrier> {
        let path = fields.at("Retry");
        let Some(member) = fields.get("Retry") else {
            return Vec::new();
        };
        let mut retriers = Vec::new();
        for (index, node) in self.array(member, &path).iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Some(members) = self.object(node, &path) else {
                continue;
            };
            let retrier = Fields {
                line: node.line,
                path: &path,
                members,
            };
            self.known(&retrier, RETRIER, &[]);
            for name in ["IntervalSeconds", "MaxDelaySeconds"] {
                if let Some(member) = retrier.get(name) {
                    self.whole(member, &retrier.at(name), 1);
                }
            }
            if let Some(member) = retrier.get("BackoffRate")
                && !matches!(&member.node.value, Json::Number(rate) if rate.as_f64() >= Some(1.0))
            {
                let message = format!(
                    "has to be a number of at least 1, not {}",
                    member.node.describe()
                );
                self.note(member.line, &retrier.at("BackoffRate"), message);
            }
            if let Some(member) = retrier.get("JitterStrategy")
                && !matches!(member.node.as_text(), Some("FULL" | "NONE"))
            {
                self.note(
                    member.line,
                    &retrier.at("JitterStrategy"),
                    "is FULL or NONE".to_owned(),
                );
            }
            let attempts = retrier.get("MaxAttempts");
            let attempts = attempts.map(|member| self.whole(member, &retrier.at("MaxAttempts"), 0));
            retriers.push(Retrier {
                errors: self.errors(&retrier),
                // The language's own default.
                max_attempts: attempts.flatten().unwrap_or(3),
            });
        }
        self.order(
            member,
            &path,
            retriers.iter().map(|retrier| retrier.errors.as_slice()),
        );
        retriers
    }

    fn catchers(&mut self, fields: &Fields<'_>) -> Vec<Catcher> {
        let path = fields.at("Catch");
        let Some(member) = fields.get("Catch") else {
            return Vec::new();
        };
        let mut catchers = Vec::new();
        for (index, node) in self.array(member, &path).iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Some(members) = self.object(node, &path) else {
                continue;
            };
            let catcher = Fields {
                line: node.line,
                path: &path,
                members,
            };
            self.known(
                &catcher,
                &["Assign", "Comment", "ErrorEquals", "Next", "Output"],
                &[],
            );
            if let Some(member) = catcher.get("Output") {
                self.value(&member.node, &catcher.at("Output"), Moment::Caught);
            }
            catchers.push(Catcher {
                errors: self.errors(&catcher),
                next: self.text(&catcher, "Next").unwrap_or_default(),
                assigns: self
                    .assignments(&catcher, Moment::Caught)
                    .into_keys()
                    .collect(),
            });
        }
        self.order(
            member,
            &path,
            catchers.iter().map(|catcher| catcher.errors.as_slice()),
        );
        catchers
    }

    fn errors(&mut self, fields: &Fields<'_>) -> Vec<String> {
        let path = fields.at("ErrorEquals");
        let Some(member) = fields.get("ErrorEquals") else {
            self.note(fields.line, &path, "missing".to_owned());
            return Vec::new();
        };
        let mut errors = Vec::new();
        for node in self.array(member, &path) {
            match node.as_text() {
                Some(error) if !error.is_empty() => {
                    if error.starts_with("States.") && !RESERVED_ERRORS.contains(&error) {
                        self.note(node.line, &path, format!("there is no error {error}"));
                    }
                    errors.push(error.to_owned());
                }
                _ => self.note(node.line, &path, "has to hold names of errors".to_owned()),
            }
        }
        errors
    }

    /// The first entry that matches an error takes it: one that can never match is a mistake.
    fn order<'e>(
        &mut self,
        member: &Member,
        path: &str,
        entries: impl ExactSizeIterator<Item = &'e [String]>,
    ) {
        let last = entries.len().saturating_sub(1);
        let lines: Vec<_> = member
            .node
            .as_array()
            .unwrap_or_default()
            .iter()
            .map(|node| node.line)
            .collect();
        let mut seen = BTreeSet::new();
        for (index, errors) in entries.enumerate() {
            let line = lines.get(index).copied().unwrap_or(member.line);
            let path = format!("{path}[{index}].ErrorEquals");
            if errors.iter().any(|error| error == "States.ALL") {
                if errors.len() > 1 {
                    self.note(line, &path, "States.ALL has to stand alone".to_owned());
                }
                if index < last {
                    self.note(
                        line,
                        &path,
                        "States.ALL has to be last: it takes every error".to_owned(),
                    );
                }
            }
            for error in errors {
                if !seen.insert(error) {
                    self.note(
                        line,
                        &path,
                        format!("{error} is dealt with before: this is never used"),
                    );
                }
            }
        }
    }

    fn assignments(&mut self, fields: &Fields<'_>, moment: Moment) -> BTreeMap<String, String> {
        let path = fields.at("Assign");
        let Some(member) = fields.get("Assign") else {
            return BTreeMap::new();
        };
        let mut assigned = BTreeMap::new();
        for member in self.object(&member.node, &path).unwrap_or_default() {
            let path = join(&path, &member.name);
            if member.name == "states" {
                self.note(
                    member.line,
                    &path,
                    "states is a name that Step Functions keeps to itself".to_owned(),
                );
            }
            self.value(&member.node, &path, moment);
            let text = member
                .node
                .as_text()
                .map_or_else(|| member.node.describe(), str::to_owned);
            assigned.insert(member.name.clone(), text);
        }
        assigned
    }

    /// A value in which every text may be an expression.
    fn value(&mut self, node: &Node, path: &str, moment: Moment) {
        match &node.value {
            Json::Text(text) => self.expression(text, node.line, path, moment),
            Json::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.value(item, &format!("{path}[{index}]"), moment);
                }
            }
            Json::Object(members) => {
                for Member { line, name, node } in members {
                    let path = join(path, name);
                    if name.ends_with(".$") {
                        self.note(
                            *line,
                            &path,
                            "a name that ends in .$ belongs to JSONPath".to_owned(),
                        );
                    }
                    self.value(node, &path, moment);
                }
            }
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
    }

    fn expression(&mut self, text: &str, line: usize, path: &str, moment: Moment) {
        let Some(source) = inner(text) else {
            if text.contains("{%") || text.contains("%}") {
                let message = "an expression is the whole text: {% at its beginning, %} at its end";
                self.note(line, path, message.to_owned());
            }
            return;
        };
        match expression::recognise(&without_placeholders(source)) {
            Err(message) => self.note(line, path, format!("no JSONata: {message}")),
            Ok(References { variables, states }) => {
                for member in states {
                    self.states_member(&member, line, path, moment);
                }
                for variable in variables {
                    let state = self.state.clone();
                    self.notes.uses.push(Use {
                        state,
                        variable,
                        line,
                        path: path.to_owned(),
                    });
                }
            }
        }
    }

    fn states_member(&mut self, member: &str, line: usize, path: &str, moment: Moment) {
        let message = match member {
            "input" | "context" => return,
            "result" if self.result && moment == Moment::After => return,
            "errorOutput" if moment == Moment::Caught => return,
            "result" => {
                "$states.result exists only in Output and Assign of a Task, Map or Parallel"
            }
            "errorOutput" => "$states.errorOutput exists only in Output and Assign of a Catch",
            _ => "$states has input, context, result and errorOutput",
        };
        self.note(line, path, message.to_owned());
    }

    /// The names between `${` and `}`; whatever else follows a `${` would reach AWS as it is written.
    fn substitutions(&mut self, source: &str) -> BTreeSet<Substitution> {
        let mut names = BTreeSet::new();
        for (line, text) in source.lines().enumerate() {
            for rest in text.split("${").skip(1) {
                let name = rest
                    .split_once('}')
                    .map(|(name, _)| name)
                    .filter(|name| is_placeholder(name));
                if let Some(name) = name {
                    names.insert(name.to_owned());
                } else {
                    let message = "${ has to be followed by a name of letters and digits, and }";
                    self.note(line + 1, "", message.to_owned());
                }
            }
        }
        names
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn is_expression(text: &str) -> bool {
    inner(text).is_some()
}

/// What stands between `{%` and `%}`, if that is the whole text.
fn inner(text: &str) -> Option<&str> {
    text.strip_prefix("{%")?.strip_suffix("%}")
}

/// The text with `${Name}` as `Name`: placeholders are replaced before JSONata sees the text, and any
/// word can stand for what will be there.
fn without_placeholders(text: &str) -> String {
    let mut parts = text.split("${");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part
            .split_once('}')
            .filter(|(name, _)| is_placeholder(name))
        {
            Some((name, rest)) => plain.extend([name, rest]),
            None => plain.extend(["${", part]),
        }
    }
    plain
}

fn is_placeholder(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|character| character.is_ascii_alphanumeric())
}

/// At least two capitalised words: what a verb is, only the author knows.
fn is_verb_noun(name: &str) -> bool {
    let words = name.chars().filter(char::is_ascii_uppercase).count();
    let begins = name
        .chars()
        .next()
        .is_some_and(|first| first.is_ascii_uppercase());
    begins && words >= 2 && name.len() <= 80 && name.chars().all(|c| c.is_ascii_alphanumeric())
}
