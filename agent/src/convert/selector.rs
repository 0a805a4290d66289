//! `LabelSelector`: `matchLabels` and `matchExpressions` become one sorted list of requirements.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use postern_policy::model::{Requirement, Selector};

use super::Problem;

/// Converts a label selector.
///
/// # Errors
///
/// An operator that does not exist, values where there must be none, or none where there must be some
/// (`LabelSelectorRequirement.values`).
pub(super) fn selector(field: &str, selector: &LabelSelector) -> Result<Selector, Problem> {
    let mut requirements = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        requirements.push(Requirement::In(key.as_str().into(), vec![value.as_str().into()]));
    }
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let field = format!("{field}.matchExpressions[{index}]");
        let key: Arc<str> = expression.key.as_str().into();
        let mut values: Vec<Arc<str>> =
            expression.values.iter().flatten().map(|value| value.as_str().into()).collect();
        values.sort();
        values.dedup();
        requirements.push(match (expression.operator.as_str(), values.is_empty()) {
            ("In", false) => Requirement::In(key, values),
            ("NotIn", false) => Requirement::NotIn(key, values),
            ("Exists", true) => Requirement::Exists(key),
            ("DoesNotExist", true) => Requirement::DoesNotExist(key),
            (operator @ ("In" | "NotIn"), true) => {
                return Err(Problem::new(
                    format!("{field}.values"),
                    format!("operator {operator} needs values"),
                ));
            }
            (operator @ ("Exists" | "DoesNotExist"), false) => {
                return Err(Problem::new(
                    format!("{field}.values"),
                    format!("operator {operator} takes no values"),
                ));
            }
            (operator, _) => {
                return Err(Problem::new(
                    format!("{field}.operator"),
                    format!("{operator:?} is none of In, NotIn, Exists, DoesNotExist"),
                ));
            }
        });
    }
    requirements.sort();
    requirements.dedup();
    Ok(Selector(requirements))
}
