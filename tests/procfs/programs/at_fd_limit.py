"""Opens pipes until EMFILE at a soft limit of ARGV[1], and waits."""

import errno
import json
import os
import resource
import sys

resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
failure = 0
while not failure:
    try:
        os.open("/dev/null", os.O_RDONLY)
    except OSError as error:
        failure = error.errno or 0
print(json.dumps(errno.errorcode[failure]), flush=True)
sys.stdin.readline()
