#!/bin/sh
# Makes a virtual environment with Python's SMB clients, unless there is one, and prints the path
# of its Python. It is kept under target/, for all later runs.
set -eu

cd "$(dirname "$0")/../../.."
venv=${CARGO_TARGET_DIR:-target}/smb-clients-2
python=$venv/bin/python
if [ ! -e "$venv/complete" ]; then
    # One makes it, the others wait.
    exec 9>"$venv.lock"
    flock 9
    if [ ! -e "$venv/complete" ]; then
        rm -rf "$venv"
        python3 -m venv "$venv" >&2
        "$venv/bin/pip" --quiet --disable-pip-version-check install \
            smbprotocol==1.17.0 impacket==0.13.1 pysmb==1.2.15 pike-smb2==0.4.6 >&2
        touch "$venv/complete"
    fi
fi
case $python in
    /*) echo "$python" ;;
    *) echo "$PWD/$python" ;;
esac
