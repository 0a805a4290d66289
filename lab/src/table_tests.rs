use super::{ParseError, Table, parse};
use crate::matrix::Reach;

const TEXT: &str = "\
                         external  production
                         internet  frontend
production/api 8000/TCP  -         +
production/api 80/TCP/IPv6  +         -
";

#[test]
fn what_is_printed_can_be_read() {
    let matrix = parse(TEXT).unwrap();
    assert_eq!(matrix.len(), 4);
    let printed = Table { matrix: &matrix, before: None, colours: false, width: 100 }.to_string();
    assert_eq!(parse(&printed).unwrap(), matrix);
}

#[test]
fn parties_without_a_family_in_common_have_no_cell() {
    let text = "a  a\nb  c\na/c 80/TCP  .  +\na/c 80/TCP/IPv6  -  .\n";
    let matrix = parse(text).unwrap();
    assert_eq!(matrix.values().collect::<Vec<_>>(), [&Reach::Denied, &Reach::Allowed]);
    let printed = Table { matrix: &matrix, before: None, colours: false, width: 100 }.to_string();
    assert_eq!(parse(&printed).unwrap(), matrix);
}

#[test]
fn changes_are_marked() {
    let matrix = parse(TEXT).unwrap();
    let mut before = matrix.clone();
    if let Some(allowed) = before.values_mut().next() {
        *allowed = if *allowed == Reach::Denied { Reach::Allowed } else { Reach::Denied };
    }
    let printed = Table { matrix: &matrix, before: Some(&before), colours: false, width: 100 }.to_string();
    assert_eq!(printed.matches('*').count(), 1);
}

#[test]
fn wide_tables_number_their_columns() {
    let matrix = parse(TEXT).unwrap();
    let printed = Table { matrix: &matrix, before: None, colours: false, width: 20 }.to_string();
    assert!(printed.contains("   1 external/internet\n   2 production/frontend\n"), "{printed}");
}

#[test]
fn mistakes_are_named() {
    let text = "a\nb\nproduction/api 8000/TCP + +\n";
    assert_eq!(parse(text), Err(ParseError { line: 3, reason: "not as many marks as sources" }));
    let text = "a\nb\nproduction/api 8000 +\n";
    assert_eq!(parse(text), Err(ParseError { line: 3, reason: "expected `namespace/pod port/protocol`" }));
    let text = "a\nb\nx/y 80/TCP +\nx/y 80/TCP -\n";
    assert_eq!(parse(text), Err(ParseError { line: 4, reason: "this cell stands further up already" }));
}
