#!/usr/bin/env bats
# What the documents say about the tree is true: files they name exist, papers that the code cites are listed.

setup() {
    cd "$BATS_TEST_DIRNAME/../.." || exit 1
}

@test "every file that a document names exists" {
    grep -oE '`(src|tests|tools|fuzz|docs|bench)/[A-Za-z0-9_./-]+`' README.md CONTRIBUTING.md docs/*.md | tr -d '`' |
        grep -vE '(NAME|FAMILY|test_Y|/X)' >"$BATS_TEST_TMPDIR/named"
    [ -s "$BATS_TEST_TMPDIR/named" ]
    missing=
    while IFS=: read -r document path; do
        [ -e "$path" ] || missing="$missing $document:$path"
    done <"$BATS_TEST_TMPDIR/named"
    echo "named but not there:$missing"
    [ -z "$missing" ]
}

@test "every paper that the source cites is in docs/papers.md" {
    missing=
    for paper in $(grep -rhoE 'arXiv:[0-9]{4}\.[0-9]{5}|10\.[0-9]{4}/[A-Za-z0-9.]+[0-9]' src --include='*.[ch]' | sort -u); do
        grep -qF "$paper" docs/papers.md || missing="$missing $paper"
    done
    echo "cited but not listed:$missing"
    [ -z "$missing" ]
}
