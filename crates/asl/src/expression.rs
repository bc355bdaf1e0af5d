//! Recognises [JSONata](https://docs.jsonata.org) and says what an expression refers to.
//!
//! A recogniser, not an evaluator: it accepts what the reference implementation's parser accepts (the
//! same operators with the same binding powers) and collects the variables that the expression takes
//! from outside. Regular expressions and signatures are skipped, not judged. The crates that evaluate
//! JSONata bring a hundred times as much, and one of them the `preserve_order` feature of `serde_json`,
//! which would change the meaning of the whole workspace.

use std::collections::BTreeSet;

/// What an expression takes from outside of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    /// Variables that neither the expression nor JSONata defines, without the `$`.
    pub(crate) variables: BTreeSet<String>,
    /// What it reads of `$states`: the member after the dot.
    pub(crate) states: BTreeSet<String>,
}

/// The functions of JSONata and those that Step Functions adds; `$eval` is not among the latter.
/// Source: docs.jsonata.org and the Step Functions developer guide, "Transforming data with JSONata".
const FUNCTIONS: &[&str] = &[
    "abs",
    "append",
    "assert",
    "average",
    "base64decode",
    "base64encode",
    "boolean",
    "ceil",
    "contains",
    "count",
    "decodeUrl",
    "decodeUrlComponent",
    "distinct",
    "each",
    "encodeUrl",
    "encodeUrlComponent",
    "error",
    "exists",
    "filter",
    "floor",
    "formatBase",
    "formatInteger",
    "formatNumber",
    "fromMillis",
    "hash",
    "join",
    "keys",
    "length",
    "lookup",
    "lowercase",
    "map",
    "match",
    "max",
    "merge",
    "millis",
    "min",
    "not",
    "now",
    "number",
    "pad",
    "parse",
    "parseInteger",
    "partition",
    "power",
    "random",
    "range",
    "reduce",
    "replace",
    "reverse",
    "round",
    "shuffle",
    "sift",
    "single",
    "sort",
    "split",
    "spread",
    "sqrt",
    "string",
    "substring",
    "substringAfter",
    "substringBefore",
    "sum",
    "toMillis",
    "trim",
    "type",
    "uppercase",
    "uuid",
    "zip",
];

/// Recognises an expression (what stands between `{%` and `%}`).
pub(crate) fn recognise(source: &str) -> Result<References, String> {
    let mut parser = Parser::new(source)?;
    parser.expression(0)?;
    match parser.token {
        Token::End => Ok(parser.references),
        _ => Err(format!(
            "expected an operator or the end, found {}",
            parser.token.describe()
        )),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Operator(&'static str),
    Name(String),
    Variable(String),
    Literal,
    Regex,
    End,
}

impl Token {
    fn describe(&self) -> String {
        match self {
            Token::Operator(operator) => format!("`{operator}`"),
            Token::Name(name) => format!("the name `{name}`"),
            Token::Variable(name) => format!("`${name}`"),
            Token::Literal => "a literal".to_owned(),
            Token::Regex => "a regular expression".to_owned(),
            Token::End => "the end of the expression".to_owned(),
        }
    }
}

/// What the parser has to know of the expression on the left of an operator.
enum Left {
    Variable(String),
    Function,
    Other,
}

struct Parser<'a> {
    rest: &'a str,
    token: Token,
    /// The variables that enclosing functions and blocks define, innermost last.
    scopes: Vec<BTreeSet<String>>,
    references: References,
}

type Recognised<T> = Result<T, String>;

impl<'a> Parser<'a> {
    fn new(source: &'a str) -> Recognised<Self> {
        let mut parser = Self {
            rest: source,
            token: Token::End,
            scopes: vec![BTreeSet::new()],
            references: References::default(),
        };
        parser.advance(true)?;
        Ok(parser)
    }

    /// Pratt's algorithm: as long as the next operator binds tighter than what is on the left.
    fn expression(&mut self, power: u8) -> Recognised<Left> {
        let mut left = self.prefix()?;
        while power < self.binding_power() {
            left = self.infix(left)?;
        }
        Ok(left)
    }

    fn binding_power(&self) -> u8 {
        let Token::Operator(operator) = self.token else {
            return 0;
        };
        match operator {
            "(" | "[" | "@" | "#" => 80,
            "." => 75,
            "{" => 70,
            "*" | "/" | "%" => 60,
            "+" | "-" | "&" => 50,
            "=" | "!=" | "<" | "<=" | ">" | ">=" | "~>" | "^" | "?:" | "??" | "in" => 40,
            "and" => 30,
            "or" => 25,
            "?" => 20,
            ":=" => 10,
            _ => 0,
        }
    }

    fn prefix(&mut self) -> Recognised<Left> {
        let token = self.token.clone();
        match token {
            Token::Variable(name) => {
                self.advance(false)?;
                Ok(Left::Variable(name))
            }
            Token::Name(name) => {
                self.advance(false)?;
                Ok(if name == "function" || name == "λ" {
                    Left::Function
                } else {
                    Left::Other
                })
            }
            // Operators that are words are names where an operand is expected; `*`, `**` and `%` select
            // children, descendants and the parent.
            Token::Literal
            | Token::Regex
            | Token::Operator("and" | "or" | "in" | "*" | "**" | "%") => {
                self.advance(false)?;
                Ok(Left::Other)
            }
            Token::Operator("-") => {
                self.advance(true)?;
                self.operand(70)
            }
            Token::Operator("(") => {
                self.advance(true)?;
                self.block()
            }
            Token::Operator("[") => {
                self.advance(true)?;
                self.array()
            }
            Token::Operator("{") => {
                self.advance(true)?;
                self.object()
            }
            Token::Operator("|") => {
                self.advance(true)?;
                self.transform()
            }
            Token::End => Err("the expression ends where an operand is expected".to_owned()),
            Token::Operator(operator) => Err(format!("expected an operand, found `{operator}`")),
        }
    }

    fn infix(&mut self, left: Left) -> Recognised<Left> {
        let Token::Operator(operator) = self.token else {
            return Ok(left);
        };
        if let (Left::Variable(name), true) = (&left, operator != ":=") {
            self.reference(name.clone());
        }
        if operator == "(" {
            self.advance(true)?;
            return if matches!(left, Left::Function) {
                self.lambda()
            } else {
                self.arguments()
            };
        }
        let power = self.binding_power();
        self.advance(true)?;
        match operator {
            "[" => {
                if self.token != Token::Operator("]") {
                    self.operand(0)?;
                }
                self.expect("]")
            }
            "{" => self.object(),
            "^" => self.order(),
            "?" => {
                self.operand(0)?;
                if self.token == Token::Operator(":") {
                    self.advance(true)?;
                    self.operand(0)?;
                }
                Ok(Left::Other)
            }
            ":=" => {
                let Left::Variable(name) = left else {
                    return Err("only a variable can be assigned to with `:=`".to_owned());
                };
                // Before the value: a function may call itself by the name that it is given.
                self.define(name);
                self.operand(power - 1)
            }
            "@" | "#" => match self.expression(power)? {
                Left::Variable(name) => {
                    self.define(name);
                    Ok(Left::Other)
                }
                _ => Err(format!("`{operator}` has to be followed by a variable")),
            },
            _ => self.operand(power),
        }
    }

    /// An expression whose value is used.
    fn operand(&mut self, power: u8) -> Recognised<Left> {
        if let Left::Variable(name) = self.expression(power)? {
            self.reference(name);
        }
        Ok(Left::Other)
    }

    fn block(&mut self) -> Recognised<Left> {
        self.scopes.push(BTreeSet::new());
        while self.token != Token::Operator(")") {
            self.operand(0)?;
            if self.token != Token::Operator(";") {
                break;
            }
            self.advance(true)?;
        }
        self.scopes.pop();
        self.expect(")")
    }

    fn array(&mut self) -> Recognised<Left> {
        if self.token != Token::Operator("]") {
            loop {
                self.operand(0)?;
                if self.token == Token::Operator("..") {
                    self.advance(true)?;
                    self.operand(0)?;
                }
                if !self.continues()? {
                    break;
                }
            }
        }
        self.expect("]")
    }

    fn object(&mut self) -> Recognised<Left> {
        if self.token != Token::Operator("}") {
            loop {
                self.operand(0)?;
                self.separator(":")?;
                self.operand(0)?;
                if !self.continues()? {
                    break;
                }
            }
        }
        self.expect("}")
    }

    fn transform(&mut self) -> Recognised<Left> {
        self.operand(0)?;
        self.separator("|")?;
        self.operand(0)?;
        if self.continues()? {
            self.operand(0)?;
        }
        self.expect("|")
    }

    fn order(&mut self) -> Recognised<Left> {
        self.separator("(")?;
        loop {
            if matches!(self.token, Token::Operator("<" | ">")) {
                self.advance(true)?;
            }
            self.operand(0)?;
            if !self.continues()? {
                break;
            }
        }
        self.expect(")")
    }

    fn arguments(&mut self) -> Recognised<Left> {
        if self.token != Token::Operator(")") {
            loop {
                // A lone question mark leaves the argument open: partial application.
                if self.token == Token::Operator("?") {
                    self.advance(false)?;
                } else {
                    self.operand(0)?;
                }
                if !self.continues()? {
                    break;
                }
            }
        }
        self.expect(")")
    }

    fn lambda(&mut self) -> Recognised<Left> {
        let mut parameters = BTreeSet::new();
        if self.token != Token::Operator(")") {
            loop {
                let Token::Variable(name) = self.token.clone() else {
                    let found = self.token.describe();
                    return Err(format!(
                        "a function's parameters are variables, found {found}"
                    ));
                };
                parameters.insert(name);
                self.advance(false)?;
                if !self.continues()? {
                    break;
                }
            }
        }
        self.expect(")")?;
        if self.token == Token::Operator("<") {
            self.signature()?;
        }
        self.separator("{")?;
        self.scopes.push(parameters);
        self.operand(0)?;
        self.scopes.pop();
        self.expect("}")
    }

    /// Skips a signature such as `<a<n>-s:b>`, whose first `<` is the current token.
    fn signature(&mut self) -> Recognised<()> {
        let mut depth = 1_usize;
        let end = self.rest.find(|character| {
            depth += usize::from(character == '<');
            depth -= usize::from(character == '>');
            depth == 0
        });
        let end = end.ok_or("a function's signature does not end")?;
        self.rest = &self.rest[end + 1..];
        self.advance(true)
    }

    /// Takes a comma if there is one.
    fn continues(&mut self) -> Recognised<bool> {
        let comma = self.token == Token::Operator(",");
        if comma {
            self.advance(true)?;
        }
        Ok(comma)
    }

    /// Takes what ends an operand; an operator has to follow.
    fn expect(&mut self, operator: &'static str) -> Recognised<Left> {
        self.require(operator)?;
        self.advance(false)?;
        Ok(Left::Other)
    }

    /// Takes what stands before an operand.
    fn separator(&mut self, operator: &'static str) -> Recognised<()> {
        self.require(operator)?;
        self.advance(true)
    }

    fn require(&self, operator: &'static str) -> Recognised<()> {
        if self.token == Token::Operator(operator) {
            return Ok(());
        }
        Err(format!(
            "expected `{operator}`, found {}",
            self.token.describe()
        ))
    }

    fn define(&mut self, name: String) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name);
        }
    }

    fn reference(&mut self, name: String) {
        if name == "states" {
            if let Some(member) = self.rest_after_dot() {
                self.references.states.insert(member);
            }
            return;
        }
        // `$` and `$$` are the context and the input; Step Functions leaves both empty but for functions.
        let known = name.is_empty()
            || name == "$"
            || FUNCTIONS.contains(&name.as_str())
            || self.scopes.iter().any(|scope| scope.contains(&name));
        if !known {
            self.references.variables.insert(name);
        }
    }

    /// The name after the dot that is the current token.
    fn rest_after_dot(&self) -> Option<String> {
        if self.token != Token::Operator(".") {
            return None;
        }
        let name = self.rest.trim_start();
        let length = name.find(|character: char| !character.is_alphanumeric() && character != '_');
        Some(name[..length.unwrap_or(name.len())].to_owned())
    }

    /// Reads the next token. A slash is a regular expression where an operand is expected.
    fn advance(&mut self, operand: bool) -> Recognised<()> {
        self.skip_blanks()?;
        let Some(first) = self.rest.chars().next() else {
            self.token = Token::End;
            return Ok(());
        };
        self.token = match first {
            '/' if operand => self.regex()?,
            '"' | '\'' => {
                self.quoted(first)?;
                Token::Literal
            }
            '`' => Token::Name(self.quoted('`')?),
            '0'..='9' => self.number(),
            _ => match self.operator() {
                Some(operator) => Token::Operator(operator),
                None => self.word(),
            },
        };
        Ok(())
    }

    fn skip_blanks(&mut self) -> Recognised<()> {
        loop {
            self.rest = self.rest.trim_start();
            let Some(comment) = self.rest.strip_prefix("/*") else {
                return Ok(());
            };
            let end = comment.find("*/").ok_or("a comment does not end")?;
            self.rest = &comment[end + 2..];
        }
    }

    fn quoted(&mut self, quote: char) -> Recognised<String> {
        let inner = &self.rest[1..];
        let mut escaped = false;
        let end = inner.find(|character| {
            let ends = character == quote && !escaped;
            // Names between back-ticks know no escapes.
            escaped = character == '\\' && !escaped && quote != '`';
            ends
        });
        let end = end.ok_or_else(|| format!("a text that begins with {quote} does not end"))?;
        let text = inner[..end].to_owned();
        self.rest = &inner[end + 1..];
        if quote != '`' {
            escapes_are_known(&text)?;
        }
        Ok(text)
    }

    fn regex(&mut self) -> Recognised<Token> {
        let (mut escaped, mut depth) = (false, 0_i32);
        let end = self.rest[1..].find(|character| {
            let ends = character == '/' && !escaped && depth == 0;
            if !escaped {
                depth +=
                    i32::from("([{".contains(character)) - i32::from(")]}".contains(character));
            }
            escaped = character == '\\' && !escaped;
            ends
        });
        match end {
            None => Err("a regular expression does not end".to_owned()),
            Some(0) => Err("a regular expression is empty".to_owned()),
            Some(end) => {
                self.rest = self.rest[end + 2..].trim_start_matches(['i', 'm']);
                Ok(Token::Regex)
            }
        }
    }

    fn number(&mut self) -> Token {
        let digits =
            |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        // Nothing follows a leading zero: two digits are then two numbers, and refused.
        let mut length = if self.rest.starts_with('0') {
            1
        } else {
            digits(self.rest)
        };
        // One dot with a digit behind it: two dots are a range.
        if let Some(fraction) = self.rest[length..].strip_prefix('.') {
            let fraction = digits(fraction);
            length += if fraction > 0 { fraction + 1 } else { 0 };
        }
        if let Some(exponent) = self.rest[length..].strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let exponent = digits(&exponent[sign..]);
            length += if exponent > 0 { exponent + sign + 1 } else { 0 };
        }
        self.rest = &self.rest[length..];
        Token::Literal
    }

    fn operator(&mut self) -> Option<&'static str> {
        // The longer ones first.
        const OPERATORS: &[&str] = &[
            "..", ":=", "!=", ">=", "<=", "**", "~>", "?:", "??", ".", "[", "]", "{", "}", "(",
            ")", ",", "@", "#", ";", ":", "?", "+", "-", "*", "/", "%", "|", "=", "<", ">", "^",
            "&", "!", "~",
        ];
        let operator = OPERATORS
            .iter()
            .find(|operator| self.rest.starts_with(**operator))?;
        self.rest = &self.rest[operator.len()..];
        Some(operator)
    }

    fn word(&mut self) -> Token {
        let ends = |character: char| {
            character.is_whitespace() || ".[]{}(),@#;:?+-*/%|=<>^&!~".contains(character)
        };
        let (word, rest) = self
            .rest
            .split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        match word {
            "and" => Token::Operator("and"),
            "or" => Token::Operator("or"),
            "in" => Token::Operator("in"),
            "true" | "false" | "null" => Token::Literal,
            _ => match word.strip_prefix('$') {
                Some(name) => Token::Variable(name.to_owned()),
                None => Token::Name(word.to_owned()),
            },
        }
    }
}

fn escapes_are_known(text: &str) -> Recognised<()> {
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            continue;
        }
        match characters.next() {
            Some('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => {}
            Some('u')
                if characters
                    .clone()
                    .take(4)
                    .filter(char::is_ascii_hexdigit)
                    .count()
                    == 4 => {}
            other => {
                return Err(format!(
                    "unknown escape \\{}",
                    other.map_or(String::new(), String::from)
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is accepted by the reference implementation (jsonata 2.2).
    const JSONATA: &[&str] = &[
        "$states.input",
        " $states.context.Execution.StartTime ",
        "$merge([$states.input, {'van': 1}])",
        "Account.Order.Product.(Price * Quantity)",
        "Account.Order[0].Product[$$.x = \"a\"][]",
        "Phone{type: number, 'n': $sum(x)}",
        "$exists(a) ? a : null",
        "a ? b",
        "a ?: b",
        "a ?? 'b'",
        "[1..5, 7, a..b]",
        "$f := function($x, $y)<n-n:n>{ $x > 0 ? $f($x - 1) : $y }",
        "($a := 1; $b := λ($x){$x + $a}; $b(2);)",
        "$map(xs, function($v, $i, $a) { $v & $string($i) })",
        "Order.Product^(<price, >$number(rank))",
        "$ ~> |Account.Order.Product|{'Total': Price * Quantity}, ['Price']|",
        "library.loans@$l.books@$b[$l.isbn=$b.isbn].{'t': $b.title}",
        "a#$i.{'x': $i}",
        "$match(x, /a[/]b\\/(c)/im)",
        "a / b / c",
        "x in [1, 2] and not or or",
        "$substring(?, 0, 5)",
        "-5 + -a.b * 2",
        "*.a.**.`odd name`.b.%",
        "/* why */ 'it is' != \"\\u00e9\\n\"",
        "1.5e-3 * 2E4 - 0.5",
        "{}",
        "[]",
        "()",
        "a.b.(c; d)",
        "$sort(a, function($l, $r) { $l.x > $r.x })[0]",
        "$a.b[c=1].$d(e)",
        "items[price > 1 and (stock or 0) >= 2].name ~> $join(', ')",
    ];

    /// Each is refused by the reference implementation.
    const NO_JSONATA: &[&str] = &[
        "",
        "   ",
        "$states.(",
        "a b",
        "a +",
        "* *",
        "(a",
        "a)",
        "[1, 2",
        "{'a': }",
        "{'a' 1}",
        "{a}",
        "'open",
        "\"\\x\"",
        "`open",
        "1 := 2",
        "a := 2",
        "function(x){1}",
        "function($x)",
        "function($x, ){1}",
        "05",
        "function($x){1",
        "$f(1,)",
        "a ? b :",
        "a@b",
        "a#1",
        "a^b",
        "a^()",
        "|a|b",
        "!a",
        "a ! b",
        "/open",
        "/x/g",
        "a ** 2",
        "'it\\'s'",
        "//",
        "/* open",
        "1..5",
        "a..b",
        ";",
        "a;b",
        "a, b",
        "%}",
    ];

    #[test]
    fn what_the_reference_implementation_accepts_is_recognised() {
        for source in JSONATA {
            assert!(
                recognise(source).is_ok(),
                "{source}: {:?}",
                recognise(source)
            );
        }
    }

    #[test]
    fn what_the_reference_implementation_refuses_is_not_recognised() {
        for source in NO_JSONATA {
            assert!(recognise(source).is_err(), "{source} was recognised");
        }
    }

    #[test]
    fn only_variables_from_outside_are_references() {
        let variables = |source: &str| {
            let references = recognise(source).expect("JSONata");
            references.variables.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(variables("$van & $string($count([$van.wheels]))"), ["van"]);
        assert_eq!(variables("($x := $y; $x + $z)"), ["y", "z"]);
        assert_eq!(
            variables("($x := 1; ($y := $x); $y)"),
            ["y"],
            "a block keeps its variables"
        );
        assert_eq!(
            variables("$map($xs, function($v) { $v * $rate })"),
            ["rate", "xs"]
        );
        assert_eq!(
            variables("($loop := function($n){ $n = 0 ? 0 : $loop($n - 1) }; $loop(3))"),
            [""; 0]
        );
        assert_eq!(
            variables("$eval('1')"),
            ["eval"],
            "Step Functions has no $eval"
        );
        assert_eq!(variables("$ ~> $uppercase"), [""; 0]);
        assert_eq!(variables("a@$l.b[$l.x = $m]"), ["m"]);
    }

    #[test]
    fn what_is_read_of_states_is_known() {
        let references =
            recognise("$states.input.a & $states . result & $states").expect("JSONata");
        assert_eq!(
            references.states.into_iter().collect::<Vec<_>>(),
            ["input", "result"]
        );
        assert!(references.variables.is_empty());
    }
}
