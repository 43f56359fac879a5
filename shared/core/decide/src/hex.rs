//! Numbers in lower-case hexadecimal, eight digits at a time: ids are written for every request.

/// The sixteen digits of a number.
#[must_use]
pub fn digits(number: u64) -> [u8; 16] {
    let mut out = [0; 16];
    let (high, low) = out.split_at_mut(8);
    high.copy_from_slice(&eight((number >> 32) as u32));
    low.copy_from_slice(&eight(number as u32));
    out
}

fn eight(number: u32) -> [u8; 8] {
    let mut spread = u64::from(number);
    spread = (spread & 0xffff_0000) << 16 | (spread & 0xffff);
    spread = (spread & 0x0000_ff00_0000_ff00) << 8 | (spread & 0x0000_00ff_0000_00ff);
    spread = (spread & 0x00f0_00f0_00f0_00f0) << 4 | (spread & 0x000f_000f_000f_000f);
    // A nibble a byte now; those over nine are letters.
    let letters = (spread + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (spread + 0x3030_3030_3030_3030 + letters * 0x27).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_standard_library() {
        for number in [0, 1, 9, 10, 0xdead_beef, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(digits(number), format!("{number:016x}").as_bytes());
        }
    }
}
