#!/usr/bin/env bats
# The snippet that docs/measuring.md gives to Python programs, as it stands there.

setup() {
    T="$TUNEUP_BIN"
    cd "$BATS_TEST_TMPDIR" || exit 1
    command -v python3 >/dev/null || skip "no python3"
    sed -n '/^```python$/,/^```$/p' "$BATS_TEST_DIRNAME/../../docs/measuring.md" | sed '/^```/d' >snippet.py
    [ -s snippet.py ]
    printf 'class cuda:\n    is_available = staticmethod(lambda: True)\n    max_memory_allocated = staticmethod(lambda: 1 << 30)\n' >torch.py
    { cat snippet.py && printf 'import time\nfor i in range(1, 5):\n    time.sleep(0.08)\n    tell(i, 3.0 - i if i != 3 else float("nan"), 64)\n'; } >train.py
}

@test "the snippet tells steps, and its warm-up is left out" {
    "$T" measure -q --json -- python3 train.py >record.json
    python3 - <<'END'
import json
r = json.load(open("record.json"))
s = r["steps"]
assert s["told"] == 4 and s["rejected_lines"] == 0, s
assert s["tokens"] == 192 and s["final_loss"] == -1 and s["allocated_bytes"] == 1 << 30, s
assert 0.2 < s["steady_seconds"] < r["seconds"], s
END
}

@test "the snippet does nothing in a run that is not measured" {
    env -u TUNEUP_METRICS_FILE python3 train.py
}

@test "ranks add their memory, and rank 0 alone makes steps" {
    "$T" measure -q --json -- sh -c 'RANK=1 python3 train.py & RANK=0 python3 train.py; wait' >record.json
    python3 - <<'END'
import json
s = json.load(open("record.json"))["steps"]
assert s["told"] == 4 and s["allocated_bytes"] == 2 << 30, s
END
}

@test "a study's commands tell their steps by the same snippet" {
    sed 's/0.08/0.02/' train.py >quick.py
    printf '%s\n' 'name: steps' 'blocks: 2' 'warmup: 0' 'cells:' \
        '  - { name: plain, command: [sh, -c, "sleep 0.3; python3 train.py"] }' \
        '  - { name: quick, command: [sh, -c, "sleep 0.3; python3 quick.py"] }' >study.yaml
    "$T" study study.yaml --output out -q >/dev/null
    "$T" compare out/study.db --json >compared.json
    python3 - <<'END'
import json
row = json.load(open("compared.json"))["comparisons"][0]
assert row["ratios"]["SpeedUp"]["value"] > 2, row["ratios"]["SpeedUp"]
assert row["ratios"]["SpeedUpWholeRun"]["value"] < 2, row["ratios"]["SpeedUpWholeRun"]
assert row["quality"]["final_loss"] == -1, row["quality"]
END
}

@test "lines of a file are compared on their steps too" {
    sed 's/0.08/0.02/' train.py >quick.py
    "$T" measure -q -o runs.jsonl --label plain -- sh -c 'sleep 0.3; python3 train.py'
    "$T" measure -q -o runs.jsonl --label quick -- sh -c 'sleep 0.3; python3 quick.py'
    "$T" compare runs.jsonl --json >compared.json
    python3 - <<'END'
import json
row = json.load(open("compared.json"))["comparisons"][0]
assert row["ratios"]["SpeedUp"]["value"] > 2, row["ratios"]["SpeedUp"]
END
}

@test "a label is measured until its ratios are known, or it was enough" {
    "$T" measure -q --db runs.db --label a --repeat 2 -- sleep 0.02
    run "$T" measure --db runs.db --label b --vs a --ci_width 0.000001 --max_repeat 4 -- sleep 0.03
    [ "$status" -eq 0 ]
    [[ $output == *"after 4 runs the widest interval"*"--max_repeat ends it here"*"b over a, 4 and 2 runs:"* ]]
    [[ $output == *"SpeedUp "*"MemoryUp "* ]]
    run "$T" measure --ci_width 0.1 -- true
    [ "$status" -eq 2 ]
    [[ $output == *"--vs LABEL"* ]]
}
