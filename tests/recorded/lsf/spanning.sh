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
jsrun -n 240 -r 6 -a 1 -c 7 -g 1 -b rs /opt/env/bin/python -m widestep study work /scratch/me/studies/poster &
child=$!
trap 'kill -USR1 $child' USR1 TERM
code=129
while [ $code -gt 128 ] && kill -0 $child 2>/dev/null; do wait $child; code=$?; done  # a signal ends a wait
exit $code
