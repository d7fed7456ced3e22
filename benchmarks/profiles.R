# A process that fits one case with lme4, then profiles all its parameters each time it is told to.
#
#   Rscript profiles.R NAME.csv FORMULA FAMILY
#
# Commands and answers are those of worker.py, with "profile" in place of "fit". Settings are lme4's
# defaults. Only `profile` is timed.

args <- commandArgs(trailingOnly = TRUE)
path <- args[1]
formula <- as.formula(args[2])
family <- if (args[3] == "poisson") poisson() else binomial()

script <- sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE))
source(file.path(dirname(script), "protocol.R"))

fit <- tryCatch(
  {
    suppressWarnings(suppressPackageStartupMessages(library(lme4)))
    data <- read_case(path)
    suppressWarnings(glmer(formula, data = data, family = family))
  },
  error = function(e) {
    failed(e)
    quit("no")
  }
)
ready(c("lme4", "Matrix"))

commands <- file("stdin", "r")
repeat {
  command <- readLines(commands, 1)
  if (length(command) == 0 || command == "quit") break
  invisible(gc())
  tryCatch(
    {
      begin <- as.numeric(Sys.time())
      cpu <- sum(proc.time()[1:2])
      found <- suppressWarnings(profile(fit, signames = FALSE))
      seconds <- as.numeric(Sys.time()) - begin
      cpu <- sum(proc.time()[1:2]) - cpu
      limits <- suppressWarnings(confint(found))
      say(
        field("seconds", sprintf("%.15g", seconds)),
        field("cpu", sprintf("%.15g", cpu)),
        field("points", as.character(nrow(found))),
        field("reach", sprintf("%.15g", max(abs(found$.zeta)))),
        field("names", paste0("[", paste(quoted(rownames(limits)), collapse = ", "), "]")),
        field("lower", numbers(limits[, 1])),
        field("upper", numbers(limits[, 2]))
      )
    },
    error = failed
  )
}
