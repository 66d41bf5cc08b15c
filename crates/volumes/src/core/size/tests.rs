use proptest::prelude::*;

use super::*;

fn size(text: &str) -> u64 {
    text.parse::<ByteSize>().expect(text).as_u64()
}

#[test]
fn suffixes_count_by_1024_in_both_spellings_and_cases() {
    for (text, bytes) in [
        ("100M", 104_857_600),
        ("1G", 1_073_741_824),
        ("512K", 524_288),
        ("2T", 2_199_023_255_552),
        ("4096", 4096),
        ("10m", 10_485_760),
        ("10Mi", 10_485_760),
        ("10mi", 10_485_760),
        ("1gi", 1_073_741_824),
        (" 3 Ki ", 3072),
        ("0", 0),
    ] {
        assert_eq!(size(text), bytes, "{text}");
    }
}

#[test]
fn fractions_are_exact_and_round_up() {
    assert_eq!(size("1.5G"), 1_610_612_736);
    assert_eq!(size("0.5K"), 512);
    assert_eq!(size("0.1K"), 103);
    assert_eq!(size("1.0000000000000000001"), 1);
    assert_eq!(size("0.1"), 1);
}

#[test]
fn wrong_sizes_say_what_is_wrong() {
    for (text, part) in [
        ("", "expected a number"),
        ("M", "expected a number"),
        (".5M", "expected a number"),
        ("1.", "expected a number"),
        ("1.2.3M", "expected a number"),
        ("-5M", "negative"),
        ("100MB", "\"MB\" is not a unit"),
        ("100MiB", "\"MiB\" is not a unit"),
        ("5X", "\"X\" is not a unit"),
        ("1e9", "\"e9\" is not a unit"),
        ("99999999999T", "larger than any disk"),
        ("99999999999999999999999", "larger than any disk"),
    ] {
        let error = text.parse::<ByteSize>().expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn configuration_gives_sizes_as_text_or_number() {
    let sizes: Vec<ByteSize> = serde_json::from_str("[\"1M\", 42]").expect("both are sizes");
    assert_eq!(sizes, [ByteSize::mib(1), ByteSize::bytes(42)]);
    for bad in ["[-1]", "[1.5]", "[true]", "[\"12 MB\"]"] {
        assert!(serde_json::from_str::<Vec<ByteSize>>(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn every_size_survives_its_text_form(bytes: u64) {
        let size = ByteSize::bytes(bytes);
        prop_assert_eq!(size.to_string().parse::<ByteSize>(), Ok(size));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
        let _ = text.parse::<ByteSize>();
    }

    #[test]
    fn a_fraction_agrees_with_exact_arithmetic(whole in 0_u64..1000, milli in 0_u64..1000) {
        let text = format!("{whole}.{milli:03}M");
        let exact = (u128::from(whole * 1000 + milli) << 20).div_ceil(1000);
        prop_assert_eq!(u128::from(size(&text)), exact);
    }
}
