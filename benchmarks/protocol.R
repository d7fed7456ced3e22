# What the R processes share: the protocol of worker.py, and how a case is read. Base R only.

quoted <- function(text) {
  text <- gsub("[[:cntrl:]]+", " ", text)
  paste0("\"", gsub("\"", "\\\"", gsub("\\", "\\\\", text, fixed = TRUE), fixed = TRUE), "\"")
}
number <- function(x) {
  ifelse(is.finite(x), sprintf("%.15g", x), "NaN") # Python reads NaN
}
numbers <- function(x) paste0("[", paste(number(x), collapse = ", "), "]")
say <- function(...) {
  cat("\n@@ {", paste(..., sep = ", "), "}\n", sep = "")
  flush(stdout())
}
field <- function(name, value) paste0("\"", name, "\": ", value)
failed <- function(e) say(field("error", quoted(conditionMessage(e))))

# Says that the process is ready, and the versions of R and of some packages.
ready <- function(packages) {
  versions <- vapply(packages, function(name) as.character(packageVersion(name)), "")
  versions <- c(R = as.character(getRversion()), versions)
  listed <- paste(field(names(versions), quoted(versions)), collapse = ", ")
  say(field("ready", "true"), field("versions", paste0("{", listed, "}")))
}

read_case <- function(path) {
  levels_of <- strsplit(readLines(sub("csv$", "levels", path), encoding = "UTF-8"), "\t")
  names(levels_of) <- vapply(levels_of, `[`, "", 1)
  header <- names(read.csv(path, nrows = 1, check.names = FALSE))
  classes <- ifelse(header %in% names(levels_of), "character", NA)
  data <- read.csv(path, colClasses = classes, check.names = FALSE)
  for (name in names(levels_of)) {
    data[[name]] <- factor(data[[name]], levels = levels_of[[name]][-1])
  }
  data
}
