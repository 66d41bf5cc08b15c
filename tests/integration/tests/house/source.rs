//! A source file with what a rule looks at: its code without comments and literals, and the part
//! of it that is not a test.

use std::ops::Range;

/// One Rust file, by its path from the root of the workspace.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    /// `text` with comments and the insides of literals blanked; every byte keeps its place.
    pub(crate) code: String,
    /// `code` with the test modules of the file blanked too.
    pub(crate) shipped: String,
}

impl Source {
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = blank(&text, &noise(&text));
        let shipped = blank(&code, &test_modules(&code));
        Self { path, text, code, shipped }
    }

    /// Whether the whole file is for tests, benchmarks or examples.
    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.ends_with("/tests.rs")
            || ["/tests/", "/benches/", "/examples/"].iter().any(|dir| self.path.contains(dir))
    }

    /// The code that ends up in a program: nothing of a test file.
    pub(crate) fn shipped(&self) -> &str {
        if self.is_test() { "" } else { &self.shipped }
    }

    /// The code that runs only in tests, every byte in its place.
    pub(crate) fn tested(&self) -> String {
        if self.is_test() {
            return self.code.clone();
        }
        let mut shipped = Vec::new();
        let mut from = 0;
        for module in test_modules(&self.code) {
            shipped.push(from..module.start);
            from = module.end;
        }
        shipped.push(from..self.code.len());
        blank(&self.code, &shipped)
    }

    /// The lines of the file that are not in its test modules.
    pub(crate) fn shipped_lines(&self) -> usize {
        let tests = test_modules(&self.code);
        let tests: usize = tests.into_iter().map(|range| self.code[range].lines().count()).sum();
        self.text.lines().count() - tests
    }

    /// The parts of the path.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &str> {
        self.path.split('/')
    }
}

/// Blanks `ranges` of a text, keeping its lines.
fn blank(text: &str, ranges: &[Range<usize>]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for range in ranges {
        for byte in &mut bytes[range.clone()] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8(bytes).expect("whole comments and literals are blanked")
}

/// Where comments are, and the insides of strings and characters.
fn noise(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment_end(bytes, at)
        } else if let Some(end) = raw_string_end(bytes, at) {
            end
        } else if rest[0] == b'"' {
            quoted_end(bytes, at, b'"')
        } else if rest[0] == b'\'' && is_character(rest) {
            quoted_end(bytes, at, b'\'')
        } else {
            at += 1;
            continue;
        };
        // The quotes stay, so that a blanked argument is still seen to be a literal.
        let literal = !rest.starts_with(b"/");
        found.push(if literal { at + 1..(end - 1).max(at + 1) } else { at..end });
        at = end;
    }
    found
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0_u32;
    let mut at = start;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// The end of a raw string that starts at `start`, if one does.
fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let before = start.checked_sub(1).map(|before| bytes[before]);
    if bytes[start] != b'r'
        || before
            .is_some_and(|b| b != b'b' && b != b'c' && (b.is_ascii_alphanumeric() || b == b'_'))
    {
        return None;
    }
    let hashes = bytes[start + 1..].iter().take_while(|&&byte| byte == b'#').count();
    if bytes.get(start + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let body = start + 2 + hashes;
    let length = bytes[body..].windows(close.len()).position(|window| window == close)?;
    Some(body + length + close.len())
}

fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_character(rest: &[u8]) -> bool {
    if rest.get(1) == Some(&b'\\') {
        return true;
    }
    let text = std::str::from_utf8(&rest[1..rest.len().min(6)]);
    let first = match text {
        Ok(text) => text.chars().next(),
        Err(error) => std::str::from_utf8(&rest[1..=error.valid_up_to()])
            .ok()
            .and_then(|text| text.chars().next()),
    };
    first.is_some_and(|character| rest.get(1 + character.len_utf8()) == Some(&b'\''))
}

/// Where `#[cfg(test)] mod name { ... }` is.
fn test_modules(code: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (start, attribute) in code.match_indices("#[cfg(test)]") {
        let body = start + attribute.len();
        let Some(open) = code[body..].find(['{', ';']).map(|open| body + open) else { continue };
        let header = code[body..open].split_whitespace().collect::<Vec<_>>();
        if code.as_bytes()[open] == b';' || !header.contains(&"mod") {
            continue;
        }
        let mut depth = 0_u32;
        let close = code[open..].bytes().position(|byte| {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        found.push(start..close.map_or(code.len(), |close| open + close + 1));
    }
    found
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = "fn a<'x>(b: &'x str) { /* fs /* net */ */ b(\"fs \\\" net\", 'n', '\\'', r#\"\"fs\"#) } // net";
    let source = Source::new("crates/x/src/a.rs", text);
    assert_eq!(source.code.len(), text.len());
    assert!(!source.code.contains("fs") && !source.code.contains("net"), "{}", source.code);
    assert!(source.code.starts_with("fn a<'x>(b: &'x str) {"), "{}", source.code);
    assert_eq!(source.code.matches('}').count(), 1, "{}", source.code);
}

#[test]
fn a_test_module_is_not_shipped() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { if c {} }\n}\nfn d() {}\n";
    let source = Source::new("crates/x/src/a.rs", text);
    assert!(source.shipped().contains("fn d") && !source.shipped().contains("fn b"));
    assert!(source.tested().contains("fn b") && !source.tested().contains("fn d"));
    assert_eq!((source.shipped().lines().count(), source.shipped_lines()), (6, 2));

    let declared = Source::new("crates/x/src/a.rs", "#[cfg(test)]\nmod tests;\nfn d() {}\n");
    assert!(declared.shipped().contains("fn d"));
    assert_eq!(declared.tested().trim(), "");
    assert_eq!(Source::new("crates/x/src/a/tests.rs", "fn b() {}").shipped(), "");
}
