use super::*;

fn sources(files: &[(&str, &str)]) -> Sources {
    files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

fn complaints(files: &[(&str, &str)]) -> Vec<String> {
    let all = check(&sources(files));
    all.into_iter().map(|c| format!("{}:{}: {}", c.path, c.line, c.text)).collect()
}

#[track_caller]
fn complains(files: &[(&str, &str)], want: &str) {
    let got = complaints(files);
    assert!(got.iter().any(|c| c.contains(want)), "no `{want}` in {got:#?}");
}

/// A crate whose only file is `text`.
fn lib(text: &str) -> [(&str, &str); 2] {
    [("control/Cargo.toml", ""), ("control/src/lib.rs", text)]
}

#[track_caller]
fn lib_is_clean(text: &str) {
    let got = complaints(&lib(text));
    assert!(got.is_empty(), "{got:#?}");
}

#[test]
fn comments_and_literals_are_blanked_in_place() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a /* x /* y */ z */ b", "a                   b"),
        (r#"f("a\"b", c)"#, "f(      , c)"),
        (r##"f(r#"a"b"#, c)"##, "f(        , c)"),
        (r"f(b'\'', '{', 'a')", "f(     ,    ,    )"),
        ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
        ("let bar = b\"x\"; r", "let bar =     ; r"),
        ("\"never closed", "             "),
    ];
    for (source, want) in cases {
        assert_eq!(lexer::blank(source), want, "{source}");
    }
}

#[test]
fn functions_are_found_with_their_lines() {
    let code = lexer::blank(
        "trait T { fn a(&self) -> [u8; 4]; }\nconst fn b(f: fn(u8)) -> u8 {\n  { 1 }\n}\n\
         impl X {\n  pub fn c() { /* } */ }\n}\n",
    );
    let got = lexer::functions(&code);
    let names: Vec<_> = got.iter().map(|f| (f.name.as_str(), f.first, f.last)).collect();
    assert_eq!(names, [("b", 2, 4), ("c", 6, 6)]);
}

#[test]
fn long_lines_functions_and_files_are_named() {
    let long = format!("const A: &str = \"{}\";\n", "x".repeat(90));
    complains(&lib(&long), "control/src/lib.rs:1: 109 columns");
    lib_is_clean(&format!("// https://example.org/{}\n", "x".repeat(90)));
    lib_is_clean(&format!("// tidy: wide table\n{long}// tidy: end of table\n"));
    let after = format!("// tidy: wide table\n// tidy: end of table\n{long}");
    complains(&lib(&after), "lib.rs:3: 109 columns");
    let body = |lines: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines));
    complains(&lib(&body(69)), "lib.rs:1: `f` has 71 lines");
    lib_is_clean(&body(68));
    complains(&lib(&"// x\n".repeat(701)), "701 lines");
    for (lines, warns) in [(501, true), (700, true), (701, false)] {
        let found = check(&sources(&lib(&"// x\n".repeat(lines))));
        assert!(found.len() == 1 && found[0].only_warns == warns, "{found:?}");
    }
}

#[test]
fn unfinished_work_and_machine_paths_are_named() {
    for (a, b) in [("TO", "DO"), ("FIX", "ME"), ("todo", "!()"), ("#[ig", "nore]")] {
        complains(&lib(&format!("// {a}{b}\n")), "finish it");
    }
    for folder in ["work", "root", "home"] {
        complains(&lib(&format!("// see /{folder}/x\n")), "a path of one machine");
    }
    lib_is_clean("// crates/work/x and https://example.org/home/\n");
}

#[test]
fn unsafe_needs_its_argument_and_an_island_its_boundary() {
    complains(&lib("fn f() {\n    unsafe { g() }\n}\n"), "lib.rs:2: unsafe without");
    complains(&lib("unsafe impl Send for X {}\n"), "unsafe without");
    lib_is_clean("fn f() {\n    // SAFETY: g asks for nothing.\n    unsafe { g() }\n}\n");
    lib_is_clean("// unsafe { in a comment }\nconst A: &str = \"unsafe {\";\n");
    let allow = "#![allow(unsafe_code, reason = \"x\")]\n";
    let island = format!("{allow}// SAFETY: so.\nunsafe impl Send for X {{}}\n");
    complains(&lib(&island), "says in its head what its boundary is");
    lib_is_clean(&format!("//! # Boundary\n{island}"));
}

#[test]
fn a_file_that_no_mod_line_reaches_is_dead() {
    let mut files = vec![
        ("control/Cargo.toml", "[[bin]]\nname = \"x\"\npath = \"src/other.rs\"\n"),
        ("control/src/lib.rs", "mod a;\npub(crate) mod b;\n// mod c;\n"),
        ("control/src/a.rs", "#[cfg(test)]\nmod tests;\n"),
        ("control/src/a/tests.rs", ""),
        ("control/src/b/mod.rs", "mod d;\n"),
        ("control/src/b/d.rs", ""),
        ("control/src/other.rs", ""),
        ("control/src/bin/x.rs", "mod e;\n"),
        ("control/src/bin/e.rs", ""),
        ("control/tests/t.rs", ""),
    ];
    assert_eq!(complaints(&files), Vec::<String>::new());
    files.push(("control/src/c.rs", ""));
    complains(&files, "control/src/c.rs:0: dead file");
}

/// Complaints about one more file of the dataplane.
fn room_complaints(path: &str, text: &str) -> Vec<String> {
    let lib = "mod wire; mod classify; mod xsk; mod odd; mod worker;";
    complaints(&[("dataplane/Cargo.toml", ""), ("dataplane/src/lib.rs", lib), (path, text)])
}

#[test]
fn rooms_use_only_what_comes_before_them() {
    let refused = |path, text, want: &str| {
        let got = room_complaints(path, text);
        assert!(got.len() == 1 && got[0].contains(want), "{got:?}");
    };
    refused("dataplane/src/wire.rs", "use crate::packet::Key;\n", "`wire` may not use `packet`");
    let sibling = "use crate::{limits, conntrack::Table};\n";
    refused("dataplane/src/classify.rs", sibling, "`classify` may not use `conntrack`");
    refused("dataplane/src/odd.rs", "", "has no place in the order");

    let clean = |path, text| assert_eq!(room_complaints(path, text), Vec::<String>::new());
    clean("dataplane/src/xsk.rs", "use crate::packet::Frame;\nuse crate::sys;\n");
    clean("dataplane/src/worker.rs", "use crate::{limits, wire, conntrack, sys};\n");
    let tests = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::worker::X;\n}\n";
    clean("dataplane/src/wire.rs", tests);
}

#[test]
fn crates_use_only_what_is_below_them() {
    complains(&[("dataplane/src/lib.rs", "use sluice_control::x;\n")], "may not use");
    complains(&[("control/Cargo.toml", "sluice-testbed = 1\n")], "may not depend on");
    lib_is_clean("use sluice_dataplane::x;\n");
}

#[test]
fn paths_in_the_architecture_exist() {
    let text = "`dataplane/src/xsk/` and `dataplane/port`, not `a/b`, `dataplane/gone.rs`\n";
    let files = [
        ("ARCHITECTURE.md", text),
        ("dataplane/Cargo.toml", ""),
        ("dataplane/src/lib.rs", "mod xsk; mod port;"),
        ("dataplane/src/xsk/mod.rs", ""),
        ("dataplane/src/port.rs", ""),
    ];
    assert_eq!(complaints(&files), ["ARCHITECTURE.md:1: `dataplane/gone.rs` does not exist"]);
}
