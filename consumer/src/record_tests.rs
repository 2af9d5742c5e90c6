use super::*;

#[test]
fn a_dead_letter_that_the_table_cannot_take_is_cut_and_says_so() {
    let whole = vec![b'x'; DEAD_LETTER_BYTES_MAX];
    let kept = Garbage::new("why".to_owned(), Some(b"k"), Some(&whole));
    assert_eq!((&kept.reason[..], kept.value.as_ref()), ("why", Some(&whole)));
    let longer = [&whole[..], b"y"].concat();
    let cut = Garbage::new("why".to_owned(), Some(&longer), Some(&longer));
    assert_eq!((cut.key.as_ref(), cut.value.as_ref()), (Some(&whole), Some(&whole)));
    let cuts =
        "why; its key of 16777217 bytes is cut to 16777216; its value of 16777217 bytes is cut to 16777216";
    assert_eq!(cut.reason, cuts);
}
