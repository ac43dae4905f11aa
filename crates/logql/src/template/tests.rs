use super::*;
use skald_model::{Labels, LabelsRef};

fn run(text: &str) -> Result<String, String> {
    let template = Template::parse("line", text)?;
    let mut state = EntryState::default();
    let labels = Labels::from_pairs([("a", "x"), ("n", "12"), ("json", r#"{"k":[1,"two"],"m":{"x":null}}"#)]);
    state.begin(&labels, LabelsRef::EMPTY);
    let mut out = vec![];
    template.execute(&state, b"the line", 1_768_449_663_427_968_236, &mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[test]
fn language() {
    for (text, want) in [
        ("{{.a}}-{{ .nosuch }}-{{`raw`}}", "x--raw"),
        ("{{- .a -}}  {{/* c */ -}} end", "xend"),
        ("{{ if eq .a \"y\" }}1{{ else if .n }}2{{ else }}3{{ end }}", "2"),
        ("{{ with .nosuch }}{{ . }}{{ else }}none{{ end }}", "none"),
        ("{{ $x := .a }}{{ $x = \"z\" }}{{ $x }}", "z"),
        ("{{ range $i, $e := (fromJson .json).k }}{{ $i }}={{ $e }};{{ end }}", "0=1;1=two;"),
        ("{{ range fromJson .json }}{{ . }} {{ end }}", "[1 two] map[x:<nil>] "),
        ("{{ range $i, $e := (fromJson .json).k }}{{ if $i }}{{ break }}{{ end }}{{ $e }}{{ end }}", "1"),
        ("{{ (fromJson .json).m.x }}{{ (fromJson .json).none }}", "<no value><no value>"),
        ("{{ define \"t\" }}<{{ . }}>{{ end }}{{ template \"t\" .a }}", "<x>"),
        ("{{ and .a .n }} {{ or .nosuch .n }} {{ not .a }}", "12 12 false"),
        ("{{ 1.5 }}{{ 2 }}{{ 'a' }}{{ true }}{{ 1e3 }}{{ 0x10 }}", "1.5297true100016"),
        ("{{ .a | printf \"%s-%s\" .n }}", "12-x"),
        ("{{ len . }}", "3"),
        ("{{ $.a }}", "x"),
    ] {
        assert_eq!(run(text).as_deref(), Ok(want), "{text}");
    }
}

#[test]
fn functions() {
    for (text, want) in [
        (
            r#"{{ printf "%05d|%.2f|%x|%q|%-4s|%4s|%v|%d" 7 1.005 255 "a" "b" "c" .n "s" }}"#,
            r#"00007|1.00|ff|"a"|b   |   c|12|%!d(string=s)"#,
        ),
        (r#"{{ addf 0.1 0.2 }} {{ divf 10 3 }} {{ mulf 1.1 1.1 }}"#, "0.3 3.3333333333333335 1.21"),
        (r#"{{ int "0x1f" }} {{ int "12.00" }} {{ int "1.5" }}"#, "31 12 0"),
        (r#"{{ round 2.5 0 }} {{ round 1.2345 2 }} {{ floor -1.5 }}"#, "3 1.23 -2"),
        (r#"{{ __line__ | upper }} {{ __timestamp__ | unixEpochMillis }}"#, "THE LINE 1768449663427"),
        (r#"{{ __timestamp__ | date "2006-01-02" }}"#, "2026-01-15"),
        (r#"{{ trunc 3 "abcdef" }} {{ trunc -2 "abcdef" }} {{ substr 1 3 "abcdef" }}"#, "abc ef bc"),
        (r#"{{ regexReplaceAll "(a)(b)?" "ab a" "<$2$1>" }}"#, "<ba> <a>"),
        (r#"{{ default "d" .nosuch }} {{ .a | default "d" }}"#, "d x"),
        (r#"{{ Replace "aaa" "a" "b" 2 }} {{ repeat 3 "x" }} {{ indent 2 "a\nb" }}"#, "bba xxx   a\n  b"),
        (
            r#"{{ urlencode "a b&c" }} {{ urldecode "a%20b" }} {{ html "<a>" }} {{ js "it's" }}"#,
            r"a+b%26c a b &lt;a&gt; it\'s",
        ),
        (r#"{{ title "hello wor_ld's" }}"#, "Hello Wor_ld'S"),
        (r#"{{ index (fromJson .json).k 1 }} {{ slice "abcd" 1 3 }}"#, "two bc"),
        (r#"{{ duration "1m30s" }} {{ bytes "2KB" }}"#, "90 2000"),
        (r#"{{ max 1 5 3 }} {{ minf 0.5 -1.25 }} {{ mod 7 4 }}"#, "5 -1.25 3"),
    ] {
        assert_eq!(run(text).as_deref(), Ok(want), "{text}");
    }
}

#[test]
fn errors_have_go_words() {
    for (text, want) in [
        ("{{.x", "template: line:1: unclosed action"),
        ("{{ .x | nosuch }}", "template: line:1: function \"nosuch\" not defined"),
        ("{{ if }}x{{ end }}", "template: line:1: missing value for if"),
        ("{{ range }}", "template: line:1: missing value for range"),
        ("{{ if .a }}x", "template: line:1: unexpected EOF"),
        ("x{{ end }}", "template: line:1: unexpected {{end}}"),
        ("{{ $x }}", "template: line:1: undefined variable \"$x\""),
        ("{{ \"abc }}", "template: line:1: unterminated quoted string"),
        (
            "{{ div 1 0 }}",
            "template: line:1:3: executing \"line\" at <div 1 0>: error calling div: runtime error: integer divide by zero",
        ),
        (
            "a\n{{ index .a 99 }}",
            "template: line:2:3: executing \"line\" at <index .a 99>: error calling index: index out of range: 99",
        ),
        (
            "{{ trunc .a \"b\" }}",
            "template: line:1:9: executing \"line\" at <.a>: wrong type for value; expected int; got string",
        ),
        (
            "{{ trunc 1 }}",
            "template: line:1:3: executing \"line\" at <trunc>: wrong number of args for trunc: want 2 got 1",
        ),
        (
            "{{ lt 1 \"a\" }}",
            "template: line:1:3: executing \"line\" at <lt 1 \"a\">: error calling lt: incompatible types for comparison",
        ),
    ] {
        assert_eq!(run(text).unwrap_err(), want, "{text}");
    }
}

#[test]
fn knows_the_labels_it_reads() {
    let fields = |text: &str| Template::parse("line", text).unwrap().fields().map(<[String]>::to_vec);
    assert_eq!(
        fields("{{.a}}{{ if eq .b \"x\" }}{{ $.c }}{{ end }}{{ (len .d) }}").unwrap(),
        ["a", "b", "c", "d"]
    );
    assert_eq!(fields("{{ index . \"a\" }}"), None);
}

proptest::proptest! {
    #[test]
    fn any_text_is_parsed_and_run_without_panic(text in "(\\{\\{|\\}\\}| |-|if|end|else|range|\\.a|\\$x|:=|\"s\"|`|\\(|\\)|\\||len|printf|%d|1|\\.|,|/\\*|\\*/){0,20}") {
        let _ = run(&text);
    }
}
