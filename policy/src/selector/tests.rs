//! Matching follows the API's words.

use crate::model::Requirement::{DoesNotExist, Exists, In, NotIn};
use crate::testkit::build::{labels, selector};

#[test]
fn requirements() {
    let values = |values: &[&str]| values.iter().map(|value| (*value).into()).collect::<Vec<_>>();
    let app = || "app".into();
    let (one, empty, none) = (labels(&[("app", "one")]), labels(&[("app", "")]), labels(&[("tier", "x")]));
    for (requirement, expected) in [
        (In(app(), values(&["one", "two"])), [true, false, false]),
        (In(app(), values(&[""])), [false, true, false]),
        (In(app(), values(&[])), [false, false, false]),
        (NotIn(app(), values(&["one"])), [false, true, true]),
        (NotIn(app(), values(&[""])), [true, false, true]),
        (Exists(app()), [true, true, false]),
        (DoesNotExist(app()), [false, false, true]),
    ] {
        let matches = [&one, &empty, &none].map(|labels| requirement.matches(labels));
        assert_eq!(matches, expected, "{requirement:?}");
    }
}

#[test]
fn all_requirements_must_hold_and_none_hold_for_anything() {
    let both = selector([Exists("app".into()), DoesNotExist("tier".into())]);
    assert!(both.matches(&labels(&[("app", "")])));
    assert!(!both.matches(&labels(&[("app", ""), ("tier", "")])));
    assert!(selector([]).matches(&labels(&[])));
}
