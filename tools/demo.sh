#!/usr/bin/env bash
# The whole pipeline on synthetic CT phantoms, from nothing: sets up its own environment first.
source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"
exec autoseg_demo "$@"
