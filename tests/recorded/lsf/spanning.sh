#!/bin/bash
#BSUB -J "widestep-poster-0a1b2c-0[1-24]"
#BSUB -o lsf/logs/%J_%I.out
#BSUB -nnodes 40
#BSUB -P abc123
#BSUB -q batch
#BSUB -U friday
#BSUB -M 480G
#BSUB -W 26:00
#BSUB -x
#BSUB -rn
#BSUB -wa USR1 -wt 5
#BSUB -alloc_flags "smt4"

cd /home/me/work || exit 5
module load python
source venv/bin/activate
export OMP_NUM_THREADS=1
export WIDESTEP_JOB_LOG="lsf/logs/${LSB_JOBID}_${LSB_JOBINDEX}.out"
child= asked=  # by a signal, perhaps before there is anybody to hand it on to
trap 'asked=1; [ -z "$child" ] || kill -USR1 $child' USR1 TERM
jsrun -n 240 -r 6 -a 1 -c 7 -g 1 -b rs /opt/env/bin/python -m widestep study work /scratch/me/studies/poster &
child=$!; [ -z "$asked" ] || kill -USR1 $child
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done  # a signal ends a wait
if [ $code -gt 128 ]; then wait $child 2>/dev/null; last=$?; [ $last -eq 127 ] || code=$last; fi
exit $code
