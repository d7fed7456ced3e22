# A process that reads one case, then fits it with lme4 or glmmTMB each time it is told to.
#
#   Rscript worker.R PROGRAM NAME.csv FORMULA FAMILY
#
# Commands and answers are those of worker.py; base R only, besides the program itself.

args <- commandArgs(trailingOnly = TRUE)
program <- args[1]
path <- args[2]
formula <- as.formula(args[3])
family <- if (args[4] == "poisson") poisson() else binomial()

script <- sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE))
source(file.path(dirname(script), "protocol.R"))

library_error <- tryCatch(
  {
    suppressWarnings(suppressPackageStartupMessages(library(program, character.only = TRUE)))
    NULL
  },
  error = function(e) e
)
if (!is.null(library_error)) {
  failed(library_error)
  quit("no")
}

data <- read_case(path)

fit_once <- function() {
  if (program == "lme4") {
    # Standard errors from the Hessian, its default, are computed inside glmer.
    fit <- glmer(formula, data = data, family = family)
    se <- sqrt(diag(as.matrix(vcov(fit))))
  } else {
    fit <- glmmTMB(formula, data = data, family = family)
    se <- sqrt(diag(vcov(fit)$cond))
  }
  list(fit = fit, se = se)
}

peak_bytes <- function() {
  status <- "/proc/self/status"
  if (!file.exists(status)) return("null")
  line <- grep("^VmHWM", readLines(status), value = TRUE)
  sprintf("%.0f", 1024 * as.numeric(gsub("[^0-9]", "", line)))
}

ready(c(program, "Matrix"))

commands <- file("stdin", "r")
repeat {
  command <- readLines(commands, 1)
  if (length(command) == 0 || command == "quit") break
  invisible(gc())
  tryCatch(
    {
      warned <- character()
      begin <- as.numeric(Sys.time())
      found <- withCallingHandlers(fit_once(), warning = function(w) {
        warned <<- c(warned, conditionMessage(w))
        invokeRestart("muffleWarning")
      })
      seconds <- as.numeric(Sys.time()) - begin
      evaluations <- if (program == "lme4") found$fit@optinfo$feval else NULL
      say(
        field("seconds", number(seconds)),
        field("loglik", number(as.numeric(logLik(found$fit)))),
        field("se", numbers(found$se)),
        field("evaluations", if (is.null(evaluations)) "null" else number(evaluations)),
        field("warnings", quoted(paste(warned, collapse = "; "))),
        field("peak_bytes", peak_bytes())
      )
    },
    error = failed
  )
}
