#!/bin/bash
#SBATCH --job-name=widestep-poster-0a1b2c-0
#SBATCH --array=0-23
#SBATCH --output=slurm/logs/%A_%a.out
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --requeue
#SBATCH --signal=USR1@120

trap : TERM USR1 USR2  # the processes save; this shell waits for them
cd /home/me/work || exit 5
export OMP_NUM_THREADS=1
task="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"  # the number of the last task alone means the whole array
export WIDESTEP_JOB_LOG="slurm/logs/$task.out"
srun --nodes=1 --ntasks=1 --cpus-per-task=1 --kill-on-bad-exit=1 /opt/env/bin/python -m widestep study work /scratch/me/studies/poster --jobs 1
code=$?
if [ $code -eq 75 ] && ! scontrol show job "$task" | grep -q JobState=COMPLETING; then scontrol requeue "$task"; fi
exit $code
