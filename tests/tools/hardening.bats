#!/usr/bin/env bats
# The program as it is linked: what makes a memory error harder to use against its owner.

setup() {
    bin=${TUNEUP_BIN:-$BATS_TEST_DIRNAME/../../build/release/tuneup}
    command -v readelf >/dev/null || skip "no readelf here"
}

@test "position-independent, with an unexecutable stack" {
    readelf -hW "$bin" | grep -q 'Type: *DYN'
    readelf -lW "$bin" | grep -q 'GNU_STACK .* RW '
}

@test "relocations are resolved at start and read-only after" {
    readelf -lW "$bin" | grep -q GNU_RELRO
    readelf -dW "$bin" | grep -q BIND_NOW
}

@test "stack protector" {
    readelf -sW "$bin" | grep -q __stack_chk_fail
}

@test "fortified" {
    readelf -sW "$bin" | grep -qE '__asan_init|__tsan_init' && skip "a sanitizer stands in for it"
    readelf -sW "$bin" | grep -q '__[a-z]*printf_chk'
}

@test "no empty or relative library path" {
    path=$(readelf -dW "$bin" | sed -n 's/.*R\(UN\)\{0,1\}PATH.*\[\(.*\)\]/\2/p')
    echo "$path"
    [[ ! ":$path:" =~ ::|:[^/:] ]] || [ -z "$path" ]
}
