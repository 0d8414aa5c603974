#!/bin/bash
#BSUB -J "widestep-poster-0a1b2c-0[1-24]%4"
#BSUB -o lsf/logs/%J_%I.out
#BSUB -nnodes 1
#BSUB -P abc123
#BSUB -q batch
#BSUB -W 2:00
#BSUB -Q 75
#BSUB -r
#BSUB -wa USR1 -wt 2

cd /home/me/work || exit 5
export OMP_NUM_THREADS=1
export WIDESTEP_JOB_LOG="lsf/logs/${LSB_JOBID}_${LSB_JOBINDEX}.out"
child= asked=  # by a signal, perhaps before there is anybody to hand it on to
trap 'asked=1; [ -z "$child" ] || kill -USR1 $child' USR1 TERM
jsrun -n 1 -r 1 -a 1 -c 42 -g 6 -b rs /opt/env/bin/python -m widestep study work /scratch/me/studies/poster --jobs 6 &
child=$!; [ -z "$asked" ] || kill -USR1 $child
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done  # a signal ends a wait
if [ $code -gt 128 ]; then wait $child 2>/dev/null; last=$?; [ $last -eq 127 ] || code=$last; fi
exit $code
