//! Heads at their bounds.

use super::*;

#[test]
fn many_fields_are_read_when_they_are_allowed() {
    let limits = HeadLimits {
        headers_max: 1024,
        ..HeadLimits::default()
    };
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "A: b\r\n".repeat(1023));
    let seen = answer(format!("{head}\r\n").as_bytes(), &limits);
    assert_eq!(seen.unwrap().unwrap().fields.len(), 1024);
    assert_eq!(
        answer(format!("{head}A: b\r\n").as_bytes(), &limits),
        Some(Err(HeadError::TooManyHeaders))
    );
}

#[test]
fn bounds_are_exact() {
    let head = "GET /abc HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n";
    let exact = HeadLimits {
        head_bytes_max: head.len(),
        headers_max: 2,
        target_bytes_max: 4,
    };
    let with = |change: fn(&mut HeadLimits)| {
        let mut limits = exact;
        change(&mut limits);
        answer(head.as_bytes(), &limits)
            .unwrap()
            .map(|seen| seen.length)
    };
    assert_eq!(with(|_| ()), Ok(head.len()));
    assert_eq!(
        with(|limits| limits.head_bytes_max -= 1),
        Err(HeadError::HeadTooLarge)
    );
    assert_eq!(
        with(|limits| limits.headers_max -= 1),
        Err(HeadError::TooManyHeaders)
    );
    assert_eq!(
        with(|limits| limits.target_bytes_max -= 1),
        Err(HeadError::TargetTooLong)
    );
    assert_eq!(
        with(|limits| limits.head_bytes_max = 0),
        Err(HeadError::HeadTooLarge)
    );
    // What follows the head does not count.
    let longer = format!("{head}{head}");
    assert!(answer(longer.as_bytes(), &exact).unwrap().is_ok());
}

#[test]
fn bounds_hold_for_heads_that_never_end() {
    let limits = HeadLimits::default();
    let target = format!("GET /{}", "a".repeat(limits.target_bytes_max));
    assert_eq!(
        answer(target.as_bytes(), &limits),
        Some(Err(HeadError::TargetTooLong))
    );
    assert_eq!(
        answer(&target.as_bytes()[..target.len() - 1], &limits),
        None
    );
    let field = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(limits.head_bytes_max));
    assert_eq!(
        answer(field.as_bytes(), &limits),
        Some(Err(HeadError::HeadTooLarge))
    );
    let fields = format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(65));
    assert_eq!(
        answer(fields.as_bytes(), &limits),
        Some(Err(HeadError::TooManyHeaders))
    );
    let method = "A".repeat(33);
    assert_eq!(
        answer(method.as_bytes(), &limits),
        Some(Err(HeadError::MalformedRequestLine))
    );
}
