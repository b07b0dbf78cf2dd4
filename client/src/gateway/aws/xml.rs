//! The little XML that S3 and STS speak.

use std::fmt::Write as _;

use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};

/// A document that is written from the top.
#[derive(Debug)]
pub struct Document {
    text: String,
    open: Vec<&'static str>,
}

impl Document {
    /// A document with this root, in S3's namespace.
    pub fn new(root: &'static str) -> Self {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
        );
        Self { text, open: vec![root] }
    }

    /// Opens an element.
    pub fn open(&mut self, name: &'static str) {
        let _ = write!(self.text, "<{name}>");
        self.open.push(name);
    }

    /// Closes the element that was opened last.
    pub fn close(&mut self) {
        if let Some(name) = self.open.pop() {
            let _ = write!(self.text, "</{name}>");
        }
    }

    /// An element that holds text.
    pub fn text(&mut self, name: &'static str, value: impl std::fmt::Display) {
        let _ = write!(self.text, "<{name}>{}</{name}>", escaped(&value.to_string()));
    }

    /// The document, with what is open closed.
    pub fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.close();
        }
        self.text
    }
}

/// Text as it stands in an element.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 has no way to write the others.
            '\t' | '\n' | '\r' => {
                let _ = write!(escaped, "&#{};", c as u32);
            }
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Every element of a document in its order, as the path of names to it and the text that it begins with.
///
/// `None` where it is not well-formed, or has a document type: nothing here needs one.
pub fn leaves(document: &[u8]) -> Option<Vec<(String, String)>> {
    let text = std::str::from_utf8(document).ok()?;
    let mut reader = Reader::from_str(text);
    let mut path: Vec<String> = Vec::new();
    let mut leaves: Vec<(String, String)> = Vec::new();
    let mut is_fresh = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                path.push(String::from_utf8(start.local_name().as_ref().to_vec()).ok()?);
                leaves.push((path.join("/"), String::new()));
                is_fresh = true;
            }
            Event::Empty(empty) => {
                let name = String::from_utf8(empty.local_name().as_ref().to_vec()).ok()?;
                leaves.push((
                    path.iter().map(String::as_str).chain([name.as_str()]).collect::<Vec<_>>().join("/"),
                    String::new(),
                ));
                is_fresh = false;
            }
            Event::End(_) => {
                path.pop();
                is_fresh = false;
            }
            Event::Text(text) if is_fresh => leaves.last_mut()?.1.push_str(&text.decode().ok()?),
            Event::GeneralRef(name) if is_fresh => leaves.last_mut()?.1.push(referred(&name)?),
            Event::CData(data) if is_fresh => leaves.last_mut()?.1.push_str(&data.decode().ok()?),
            Event::DocType(_) => return None,
            Event::Eof => return path.is_empty().then_some(leaves),
            _ => {}
        }
    }
}

/// The character that `&name;` stands for.
fn referred(name: &BytesRef<'_>) -> Option<char> {
    if let Some(c) = name.resolve_char_ref().ok()? {
        return Some(c);
    }
    Some(match name.decode().ok()?.as_ref() {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_with_their_text() {
        let text = "<?xml version='1.0'?>\n<a xmlns='x'>\n <n:b>&quot;1&#x41;&quot;</n:b><b/><b>x&lt;y</b></a>";
        let leaves = leaves(text.as_bytes()).unwrap();
        let leaves: Vec<_> = leaves.iter().map(|(path, text)| (path.as_str(), text.trim())).collect();
        assert_eq!(leaves, [("a", ""), ("a/b", "\"1A\""), ("a/b", ""), ("a/b", "x<y")]);
        for text in ["<a>", "<a></b>", "<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>", "<a>&e;</a>"] {
            assert!(super::leaves(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn text_does_not_become_markup() {
        let mut document = Document::new("R");
        document.open("A");
        document.text("B", "<&>\"\n\u{1}");
        assert!(document.finish().ends_with("<A><B>&lt;&amp;&gt;&quot;&#10;\u{fffd}</B></A></R>"));
    }
}
