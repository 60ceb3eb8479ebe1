#!/usr/bin/env bats
# tools/check_layers sees what it is there to see: each case is a small tree with one breach.

setup() {
    check=$BATS_TEST_DIRNAME/../../tools/check_layers
    src=$BATS_TEST_TMPDIR/src
    mkdir -p "$src/base" "$src/text" "$src/cli"
    printf 'base  -     low\ntext  base  words\ncli  *  all of it\n' >"$src/LAYERS"
    echo '#include <stdio.h>' >"$src/base/err.h"
    printf '#include "base/err.h"\n' >"$src/base/err.c"
    printf '#include "base/err.h"\n' >"$src/text/bpe.h"
    printf '#include "text/bpe.h"\n\n#include "base/err.h"\n' >"$src/text/bpe.c"
    printf '#include "text/bpe.h"\n#include "base/err.h"\n' >"$src/cli/main.c"
}

refused() {
    run "$check" "$src"
    echo "$output"
    [ "$status" -eq 1 ] && [[ $output == *"$1"* ]]
}

@test "a tree that keeps the rules passes" {
    run "$check" "$src"
    echo "$output"
    [ "$status" -eq 0 ]
}

@test "an include that points up" {
    echo '#include "text/bpe.h"' >>"$src/base/err.c"
    refused "src/base/err.c:2: base may not include text"
}

@test "a folder that is not listed" {
    mkdir "$src/new"
    echo '/* */' >"$src/new/thing.c"
    refused "src/new/thing.c:0: is in no folder"
}

@test "another header before one's own" {
    printf '#include <stdio.h>\n#include "text/bpe.h"\n' >"$src/text/bpe.c"
    refused "src/text/bpe.c:1: the first include is stdio.h"
}

@test "a stem used twice" {
    echo '/* */' >"$src/cli/bpe.c"
    refused "file stems are unique"
}

@test "an include that is not written from src/" {
    echo '#include "bpe.h"' >>"$src/text/bpe.c"
    refused '"bpe.h" is not a file of src/'
}

@test "a vendor's header in two files, or in a header" {
    echo '#include <sqlite3.h>' >>"$src/base/err.c"
    run "$check" "$src"
    [ "$status" -eq 0 ]
    echo '#include <sqlite3.h>' >>"$src/cli/main.c"
    refused "sqlite3.h is included by base/err.c already"
    echo '#include <oneapi/dnnl/dnnl.h>' >>"$src/base/err.h"
    refused "dnnl.h in a header"
}

@test "jansson past base/json.h" {
    echo '#include <jansson.h>' >>"$src/text/bpe.c"
    refused "jansson.h is included by base/json.h alone"
}

@test "no sources, or no LAYERS, is no pass" {
    run "$check" "$BATS_TEST_TMPDIR"
    [ "$status" -ne 0 ]
}
