//! Makes a failing string of bytes small: shorter first, then with more zeros. What a byte means is not known here; a shorter string
//! is a shorter run, and a zero the tamest choice.

/// The smallest string found for which `fails` still holds, trying so many strings at most. `fails` must hold for `bytes`.
pub fn shrink(bytes: Vec<u8>, tries_max: usize, mut fails: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let mut tries = 0;
    let mut smallest = bytes;
    let mut attempt = |candidate: Vec<u8>, smallest: &mut Vec<u8>| {
        tries += 1;
        let better = tries <= tries_max && fails(&candidate);
        if better {
            *smallest = candidate;
        }
        better
    };
    loop {
        let before = smallest.clone();
        // The end is easy to do without: everything after the failure.
        let mut cut = smallest.len() / 2;
        while cut > 0 {
            let shorter = smallest[..smallest.len() - cut.min(smallest.len())].to_vec();
            if !attempt(shorter, &mut smallest) {
                cut /= 2;
            }
        }
        for piece in [256, 64, 16, 4, 2, 1] {
            let mut at = 0;
            while at < smallest.len() {
                let end = (at + piece).min(smallest.len());
                let without = [&smallest[..at], &smallest[end..]].concat();
                if attempt(without, &mut smallest) {
                    continue;
                }
                let mut zeroed = smallest.clone();
                zeroed[at..end].fill(0);
                if zeroed != smallest {
                    attempt(zeroed, &mut smallest);
                }
                at = end;
            }
        }
        if smallest == before {
            return smallest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shrink;

    #[test]
    fn what_does_not_matter_goes() {
        let bytes: Vec<u8> = (0..200).collect();
        let fails = |bytes: &[u8]| bytes.contains(&77) && bytes.iter().filter(|byte| **byte > 150).count() >= 2;
        let small = shrink(bytes, 10_000, fails);
        assert_eq!(small.len(), 3, "{small:?}");
        assert!(fails(&small));
    }

    #[test]
    fn it_ends_after_so_many_tries() {
        let mut tries = 0;
        let small = shrink(vec![1; 4_096], 10, |_| {
            tries += 1;
            true
        });
        assert!(tries == 10 && small.len() < 4_096);
    }
}
