//! Complaints as people get to see them: the new ones, and not too many at once.

use std::collections::HashSet;

/// How many are logged at once.
const LOGGED: usize = 10;

/// How many a status lists.
const LISTED: usize = 100;

/// Which of these were not among those before.
pub(super) fn new<'a>(now: &'a [String], before: &[String]) -> Vec<&'a String> {
    if now == before {
        return Vec::new();
    }
    let before: HashSet<&String> = before.iter().collect();
    now.iter().filter(|message| !before.contains(message)).collect()
}

/// Logs some, and how many there are beside.
pub(super) fn logged<T: AsRef<str>>(messages: &[T], log: impl Fn(&str)) {
    for message in messages.iter().take(LOGGED) {
        log(message.as_ref());
    }
    if messages.len() > LOGGED {
        log(&and_more(messages.len() - LOGGED));
    }
}

/// The first of each kind for a status, and how many there are of all.
pub(super) fn listed<'a>(kinds: impl IntoIterator<Item = &'a [String]>) -> (Vec<String>, usize) {
    let (mut listed, mut total) = (Vec::new(), 0);
    for kind in kinds {
        total += kind.len();
        listed.extend(kind.iter().take(LISTED).cloned());
        if kind.len() > LISTED {
            listed.push(and_more(kind.len() - LISTED));
        }
    }
    (listed, total)
}

/// With separators between thousands.
fn and_more(count: usize) -> String {
    let digits = count.to_string();
    let mut number = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            number.push(',');
        }
        number.push(digit);
    }
    format!("and {number} more")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::{Duration, Instant};

    use super::*;

    fn complaints(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|number| format!("Pod shop/pod-{number}: not to be read")).collect()
    }

    #[test]
    fn many_are_compared_in_no_time() {
        let (before, now) = (complaints(0..20_000), complaints(1..20_001));
        let begin = Instant::now();
        assert_eq!(new(&now, &before), [&now[19_999]]);
        assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
        assert!(new(&now, &now).is_empty());
    }

    #[test]
    fn some_are_logged() {
        let log = |count| {
            let lines = RefCell::new(Vec::new());
            logged(&complaints(0..count), |line| lines.borrow_mut().push(line.to_owned()));
            lines.into_inner()
        };
        assert_eq!(log(10).len(), 10);
        assert_eq!(log(4_000).len(), 11);
        assert_eq!(log(4_000)[10], "and 3,990 more");
    }

    #[test]
    fn a_status_lists_some_of_each_kind() {
        let (objects, kernel) = (complaints(0..1_234), complaints(0..2));
        let (listed, total) = listed([&objects[..], &kernel[..], &[]]);
        assert_eq!(total, 1_236);
        assert_eq!(listed.len(), 103);
        assert_eq!(listed[100], "and 1,134 more");
        assert_eq!(listed[101..], kernel);
    }
}
