--- The version that status and --version tell.
return "0.1.0"
