//! HCL, taken apart as far as it takes to find blocks: comments, strings, here-documents and braces.

use std::iter::Peekable;
use std::str::Chars;

/// A piece of a configuration.
#[derive(Debug, PartialEq, Eq)]
pub enum Token {
    /// A name, a number or a keyword.
    Word(String),
    /// A string, without what its templates hold.
    Text(String),
    /// `{`
    Open,
    /// `}`
    Close,
    /// Any other character.
    Other,
}

/// Takes a configuration apart; comments and here-documents leave nothing.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '#' => skip_line(&mut rest),
            '/' if rest.peek() == Some(&'/') => skip_line(&mut rest),
            '/' if rest.peek() == Some(&'*') => {
                let mut last = ' ';
                rest.next();
                rest.by_ref().find(|&c| std::mem::replace(&mut last, c) == '*' && c == '/');
            }
            '<' if rest.peek() == Some(&'<') => {
                rest.next();
                skip_heredoc(&mut rest);
            }
            '"' => tokens.push(Token::Text(string(&mut rest))),
            '{' => tokens.push(Token::Open),
            '}' => tokens.push(Token::Close),
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = String::from(c);
                while let Some(c) = rest.next_if(|&c| c.is_alphanumeric() || c == '_' || c == '-') {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
            c if c.is_whitespace() => {}
            _ => tokens.push(Token::Other),
        }
    }
    tokens
}

fn skip_line(rest: &mut Peekable<Chars<'_>>) {
    rest.by_ref().find(|&c| c == '\n');
}

/// Reads to the closing quote; a template may hold strings of its own.
fn string(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut text = String::new();
    // What is open: a string or, within one, the braces of a template.
    let mut open = vec!['"'];
    while let Some(c) = rest.next() {
        let in_string = open.last() == Some(&'"');
        match c {
            '\\' if in_string => {
                rest.next();
            }
            '"' if in_string => {
                open.pop();
                if open.is_empty() {
                    break;
                }
            }
            '"' => open.push('"'),
            '$' | '%' if in_string && rest.peek() == Some(&'{') => {
                rest.next();
                open.push('{');
            }
            '{' if !in_string => open.push('{'),
            '}' if !in_string => {
                open.pop();
            }
            c if open.len() == 1 => text.push(c),
            _ => {}
        }
    }
    text
}

fn skip_heredoc(rest: &mut Peekable<Chars<'_>>) {
    let line = |rest: &mut Peekable<Chars<'_>>| -> Option<String> {
        rest.peek()?;
        Some(rest.by_ref().take_while(|&c| c != '\n').collect())
    };
    let Some(first) = line(rest) else { return };
    let end = first.trim_start_matches('-').trim().to_owned();
    while let Some(line) = line(rest) {
        if line.trim() == end {
            return;
        }
    }
}
