//! The word that somebody meant who wrote another.

/// What other programs call our settings.
const OTHER_NAMES: [(&str, &str); 11] = [
    ("attempts", "max_attempts"),
    ("base", "backoff"),
    ("channel", "queue"),
    ("delay", "backoff"),
    ("max_delay", "max"),
    ("max_retries", "max_attempts"),
    ("multiplier", "factor"),
    ("retries", "max_attempts"),
    ("secs", "seconds"),
    ("time_limit", "timeout"),
    ("tries", "max_attempts"),
];

/// The one of `words` that `word` most likely stands for.
pub(crate) fn nearest<'a>(word: &str, words: &[&'a str]) -> Option<&'a str> {
    let other = OTHER_NAMES.iter().find(|it| it.0 == word).map(|it| it.1);
    if let Some(known) = words.iter().find(|it| Some(**it) == other) {
        return Some(known);
    }
    let far = word.len() / 3 + 1;
    let distances = words.iter().map(|it| (distance(word, it), *it));
    distances.min().filter(|it| it.0 <= far).map(|it| it.1)
}

/// How many letters must be added, removed or replaced (V. Levenshtein, 1965).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [&str; 4] = ["max_attempts", "backoff", "factor", "max"];

    #[test]
    fn a_misspelt_word_finds_its_own() {
        assert_eq!(nearest("backof", &WORDS), Some("backoff"));
        assert_eq!(nearest("max_attempt", &WORDS), Some("max_attempts"));
        assert_eq!(nearest("Factor", &WORDS), Some("factor"));
    }

    #[test]
    fn a_word_of_another_program_finds_ours() {
        assert_eq!(nearest("retries", &WORDS), Some("max_attempts"));
        assert_eq!(nearest("multiplier", &WORDS), Some("factor"));
    }

    #[test]
    fn a_word_like_none_finds_none() {
        assert_eq!(nearest("colour", &WORDS), None);
        assert_eq!(nearest("", &[]), None);
    }
}
