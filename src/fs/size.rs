//! Sizes as people write and read them. Units are powers of 1024, as for truncate(1) and dd(1).

use bytesize::ByteSize;

/// `64M`, `1G`, `512KiB`, `4096`: bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is no size: write bytes, or a number with K, M, G or T, such as 256M");
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| format!("`{text}` is larger than any device"))
}

/// `256.0 MiB`, for messages.
pub fn show(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("1G"), Ok(1 << 30));
        assert_eq!(parse("64m"), Ok(64 << 20));
        assert_eq!(parse("512KiB"), Ok(512 << 10));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "G", "-1", "1.5G", "1X", "10MB", "99999999999T", "1 G"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_same_units() {
        assert_eq!(show(256 << 20), "256.0 MiB");
    }
}
