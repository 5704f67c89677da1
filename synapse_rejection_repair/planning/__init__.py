"""How a plan is made, stage by stage; `planner` has the order of the stages."""
