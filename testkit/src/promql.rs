//! PromQL as far as a test has to read it: what an expression selects, and by which labels it groups.
//!
//! Prometheus itself checks the grammar. This finds the names, so that a test can compare them with those that exist.

/// What stands where a series is selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The name of the metric.
    pub metric: String,
    /// Between the braces: label, operator and value. A list of labels, as in a table of metrics, has neither operators nor values.
    pub matchers: Vec<(String, String, String)>,
    /// Whether a range follows, like `[5m]`.
    pub ranged: bool,
    /// The function whose first argument it is.
    pub function: Option<String>,
}

impl Selector {
    /// As PromQL, without the range.
    pub fn instant(&self) -> String {
        let matchers = self.matchers.iter().map(|(label, operator, value)| format!("{label}{operator}\"{value}\""));
        format!("{}{{{}}}", self.metric, matchers.collect::<Vec<_>>().join(","))
    }
}

/// An expression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expression {
    /// What it selects, from left to right.
    pub selectors: Vec<Selector>,
    /// The labels behind `by`, `without`, `on`, `ignoring` and `group_…`.
    pub grouping: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Mark(char),
}

const AGGREGATIONS: [&str; 8] = ["sum", "min", "max", "avg", "count", "group", "topk", "quantile"];
const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];

/// Takes an expression apart. A wrong one gives nonsense, and no panic.
pub fn parse(text: &str) -> Expression {
    let tokens = tokens(text);
    let is = |at: usize, mark: char| tokens.get(at) == Some(&Token::Mark(mark));
    let mut expression = Expression::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let here = at;
        at += 1;
        let Token::Word(word) = token else { continue };
        let name = word.as_str();
        if name.starts_with(|first: char| first.is_ascii_digit() || first == '$') || OPERATORS.contains(&name) {
            continue;
        }
        if GROUPINGS.contains(&name) {
            while at < tokens.len() && !is(at, ')') {
                if let Token::Word(label) = &tokens[at] {
                    expression.grouping.push(label.clone());
                }
                at += 1;
            }
            continue;
        }
        if is(at, '(') || AGGREGATIONS.contains(&name) {
            continue;
        }
        let function = match (here.checked_sub(2).map(|before| &tokens[before]), here > 0 && is(here - 1, '(')) {
            (Some(Token::Word(function)), true) => Some(function.clone()),
            _ => None,
        };
        let mut matchers = Vec::new();
        if is(at, '{') {
            at += 1;
            while at < tokens.len() && !is(at, '}') {
                match &tokens[at] {
                    Token::Word(label) => matchers.push((label.clone(), String::new(), String::new())),
                    Token::Mark(',') => {}
                    Token::Mark(mark) => matchers.last_mut().into_iter().for_each(|matcher| matcher.1.push(*mark)),
                    Token::Text(value) => {
                        matchers.last_mut().into_iter().for_each(|matcher| matcher.2.clone_from(value))
                    }
                }
                at += 1;
            }
            at += 1;
        }
        let ranged = is(at, '[');
        expression.selectors.push(Selector { metric: word.clone(), matchers, ranged, function });
    }
    expression
}

fn tokens(text: &str) -> Vec<Token> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    let in_word = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':' | '.' | '$');
    while let Some(first) = rest.chars().next() {
        let end = if in_word(first) {
            let end = rest.find(|letter| !in_word(letter)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            end
        } else if first == '"' {
            let inside = &rest[1..];
            let end = inside.find('"').unwrap_or(inside.len());
            tokens.push(Token::Text(inside[..end].to_owned()));
            (end + 2).min(rest.len())
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Mark(first));
            }
            first.len_utf8()
        };
        rest = &rest[end..];
    }
    tokens
}
