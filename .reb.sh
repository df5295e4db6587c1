#!/bin/bash
# rebases; imports follow
cd /tmp/team/pyrooms-land
git fetch -q; git rebase origin/main 2>&1 | grep -i "conflict" 
