// Tasks 0, 1, ..., each in a thread of its own; where no more threads can be had, this one does the rest.
#pragma once

#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

template <class Task>
void in_parallel(size_t tasks, const Task &task)
{
    std::vector<std::thread> others;
    others.reserve(tasks);
    try {
        while (others.size() + 1 < tasks) others.emplace_back(task, others.size() + 1);
    } catch (const std::system_error &) {
    }
    for (size_t i = others.size() + 1; i < tasks; i++) task(i);
    if (tasks) task(size_t{0});
    for (std::thread &other : others) other.join();
}
