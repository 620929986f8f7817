#!/usr/bin/env bash
# stage.sh - runs a part of the tests and says in one line how long it took, and of the processors' time how much: the next slow part is seen.
# usage: tests/stage.sh NAME COMMAND...
TIMEFORMAT="== $1 took %0lR, processors %0U + %0S s"
time "${@:2}"
