#!/bin/bash
#SBATCH --job-name=widestep-poster-0a1b2c-0
#SBATCH --array=0-0
#SBATCH --output=slurm/logs/%A_%a.out
#SBATCH --open-mode=append
#SBATCH --nodes=40
#SBATCH --ntasks-per-node=6
#SBATCH --cpus-per-task=7
#SBATCH --account=abc123
#SBATCH --partition=batch
#SBATCH --qos=normal
#SBATCH --reservation=friday
#SBATCH --constraint=gpu80&nvme
#SBATCH --gres=nvme:1
#SBATCH --gpus-per-node=6
#SBATCH --mem=480G
#SBATCH --time=1-02:00:00
#SBATCH --exclusive
#SBATCH --no-requeue
#SBATCH --signal=USR1@300
#SBATCH --mail-type=END

trap : TERM USR1 USR2  # the processes save; this shell waits for them
cd /home/me/work || exit 5
module load python
source venv/bin/activate
export OMP_NUM_THREADS=1
task="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"  # the number of the last task alone means the whole array
export WIDESTEP_JOB_LOG="slurm/logs/$task.out"
srun --nodes=40 --ntasks=240 --cpus-per-task=7 --kill-on-bad-exit=1 /opt/env/bin/python -m widestep study work /scratch/me/studies/poster
code=$?
exit $code
